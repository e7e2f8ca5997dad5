package sdk

import "embed"

// WorkerSource is the source of the package sdk/worker, rooted above its folder
// ("worker/runtime.go" and so on), without its tests. Written next to a site, it
// lets the site's pages build without a network.
//
//go:embed worker/change.go worker/env.go worker/flight.go worker/health.go worker/ready.go worker/runtime.go
//go:embed worker/templates/link.go worker/templates/parse.go worker/templates/templates.go
var WorkerSource embed.FS
