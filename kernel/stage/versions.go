package stage

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/tqserver/tqserver/sdk"
)

// checkHandshake tells what is wrong with the versions in a handshake line, "CORE|PROTOCOL|NETWORK|ADDRESS|…".
func checkHandshake(line string) error {
	parts := strings.Split(line, "|")
	if len(parts) < 4 {
		return nil
	}
	if core, err := strconv.Atoi(parts[0]); err == nil && core != goplugin.CoreProtocolVersion {
		return fmt.Errorf("the plugin shakes hands as version %d of go-plugin's protocol, this tqserver as version %d: use a version of the plugin that was built for this tqserver", core, goplugin.CoreProtocolVersion)
	}
	if protocol, err := strconv.Atoi(parts[1]); err == nil && protocol != int(sdk.Handshake.ProtocolVersion) {
		return protocolError(protocol)
	}
	return nil
}

// protocolError says who has to change when a plugin speaks another version of the handshake.
func protocolError(theirs int) error {
	ours := int(sdk.Handshake.ProtocolVersion)
	return fmt.Errorf("the plugin speaks protocol %d, this tqserver speaks %d: %s", theirs, ours, whoChanges(theirs, ours))
}

func whoChanges(theirs, ours int) string {
	if theirs > ours {
		return "upgrade tqserver, or use an older version of the plugin"
	}
	return "use a newer version of the plugin, or build it with the sdk of this tqserver"
}

// stageService is the full name of a stage's service: its stage and version.
var stageService = regexp.MustCompile(`^tqserver\.plugin\.([a-z]+)\.v([0-9]+)\.[A-Z][a-zA-Z]*$`)

// versionsOf lists the versions of a stage's protocol among the services of a plugin, oldest first.
func versionsOf(stage string, services []string) (versions []int) {
	for _, name := range services {
		if m := stageService.FindStringSubmatch(name); m != nil && m[1] == stage {
			v, _ := strconv.Atoi(m[2]) // it is digits
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	return versions
}

// checkServices tells what is wrong when a plugin does not offer the service of a stage.
func checkServices(stage string, info sdk.Info) error {
	want := sdk.ServiceName(stage)
	if slices.Contains(info.Services, want) {
		return nil
	}
	who := cmp.Or(info.Name, "the plugin") + " " + info.Version
	if theirs := versionsOf(stage, info.Services); len(theirs) > 0 {
		var names []string
		for _, v := range theirs {
			names = append(names, fmt.Sprintf("%s.v%d", stage, v))
		}
		ours := versionsOf(stage, []string{want})[0]
		return fmt.Errorf("%s speaks %s, this tqserver speaks %s.v%d: %s", who, strings.Join(names, ", "), stage, ours, whoChanges(theirs[len(theirs)-1], ours))
	}
	offers := cmp.Or(strings.Join(info.Services, ", "), "nothing")
	return fmt.Errorf("%s offers %s; wanted is %s: name the plugin under its own stage", who, offers, want)
}
