package watcher

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// remoteTypes are the file systems on which changes are made that this kernel does not see: see statfs(2).
var remoteTypes = map[uint32]string{
	unix.NFS_SUPER_MAGIC:  "nfs",
	unix.SMB_SUPER_MAGIC:  "smb",
	unix.CIFS_SUPER_MAGIC: "cifs",
	unix.SMB2_SUPER_MAGIC: "smb2",
	unix.V9FS_MAGIC:       "9p",
	unix.FUSE_SUPER_MAGIC: "fuse", // virtiofs and sshfs too
	unix.AFS_SUPER_MAGIC:  "afs",
	unix.CEPH_SUPER_MAGIC: "ceph",
	0x786f4256:            "vboxsf",
	0xbacbacbc:            "vmhgfs",
	0x7c7c6673:            "prl_fs",
	0x0bd00bd0:            "lustre",
	0x7461636f:            "ocfs2",
	0x01161970:            "gfs2",
}

// device gives the number of the file system that a directory is on, and its type if others may change it.
func device(dir string, info fs.FileInfo) (number uint64, remote string) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		number = stat.Dev
	}
	var f unix.Statfs_t
	if err := unix.Statfs(dir, &f); err != nil {
		return number, ""
	}
	return number, remoteTypes[uint32(f.Type)]
}
