package control

import "time"

// PageReleases is what one can go back to.
type PageReleases struct {
	Page     string    `json:"page"`
	Route    string    `json:"route"` // with the host, if it has one
	Pinned   *Pin      `json:"pinned,omitempty"`
	Releases []Release `json:"releases"`
}

// Release is one kept release of a page.
type Release struct {
	ID       string    `json:"id"`
	Built    time.Time `json:"built"`
	Live     time.Time `json:"live,omitzero"`      // when it went live last
	Revision string    `json:"revision,omitempty"` // the commit that was checked out, if the page lies in a git work tree
	Dirty    bool      `json:"dirty,omitempty"`    // with changes that were not committed
	BuildMS  int64     `json:"build_ms"`
	Size     int64     `json:"size"`             // of the binary, in bytes
	State    string    `json:"state"`            // live, previous, good, rolled back, failed
	Reason   string    `json:"reason,omitempty"` // why it was rolled back or failed
	Warm     bool      `json:"warm,omitempty"`   // a worker of it waits to come back
}

// Pin says that a page went back to a release and stays there until its source makes another one.
type Pin struct {
	Release string    `json:"release"`
	Over    string    `json:"over"` // the release that the source makes, which is not deployed
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason,omitempty"` // why the server went back; "": it was told to
}

// RolledBack is how a rollback went.
type RolledBack struct {
	Page    string  `json:"page"`
	Route   string  `json:"route"`
	From    string  `json:"from,omitempty"` // the release that was live before; "": none
	Release string  `json:"release"`        // that is live now
	Warm    bool    `json:"warm"`           // its worker was still there
	TookMS  float64 `json:"took_ms"`        // from the server's getting the order until the release was live
	Pinned  *Pin    `json:"pinned,omitempty"`
}
