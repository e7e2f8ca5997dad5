package stage

import (
	"strings"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

func TestHandshakeOfAnotherVersionSaysWhoHasToChange(t *testing.T) {
	for line, want := range map[string]string{
		"1|1|unix|/s|grpc|":  "",
		"1|2|unix|/s|grpc|":  "the plugin speaks protocol 2, this tqserver speaks 1: upgrade tqserver, or use an older version of the plugin",
		"1|0|unix|/s|grpc|":  "the plugin speaks protocol 0, this tqserver speaks 1: use a newer version of the plugin, or build it with the sdk of this tqserver",
		"2|1|unix|/s|grpc|":  "the plugin shakes hands as version 2 of go-plugin's protocol, this tqserver as version 1: use a version of the plugin that was built for this tqserver",
		"usage: ./something": "",
	} {
		got := ""
		if err := checkHandshake(line); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestServicesOfAnotherVersionSayWhoHasToChange(t *testing.T) {
	for services, want := range map[string]string{
		"tqserver.plugin.resolver.v1.Resolver":                                      "",
		"tqserver.plugin.resolver.v2.Resolver tqserver.plugin.resolver.v1.Resolver": "",
		"tqserver.plugin.resolver.v2.Resolver":                                      "vhost 2.0.0 speaks resolver.v2, this tqserver speaks resolver.v1: upgrade tqserver, or use an older version of the plugin",
		"tqserver.plugin.resolver.v3.Resolver tqserver.plugin.resolver.v2.Resolver": "vhost 2.0.0 speaks resolver.v2, resolver.v3, this tqserver speaks resolver.v1: upgrade tqserver, or use an older version of the plugin",
		"tqserver.plugin.resolver.v0.Resolver":                                      "vhost 2.0.0 speaks resolver.v0, this tqserver speaks resolver.v1: use a newer version of the plugin, or build it with the sdk of this tqserver",
		"tqserver.plugin.builder.v1.Builder":                                        "vhost 2.0.0 offers tqserver.plugin.builder.v1.Builder; wanted is tqserver.plugin.resolver.v1.Resolver: name the plugin under its own stage",
		"":                                                                          "vhost 2.0.0 offers nothing; wanted is tqserver.plugin.resolver.v1.Resolver: name the plugin under its own stage",
	} {
		got := ""
		if err := checkServices("resolver", sdk.Info{Name: "vhost", Version: "2.0.0", Services: strings.Fields(services)}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", services, got, want)
		}
	}
}
