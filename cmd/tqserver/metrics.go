package main

import (
	"github.com/spf13/cobra"

	"github.com/tqserver/tqserver/kernel/control"
)

func newMetrics(a *app) *cobra.Command {
	return a.asJSON(&cobra.Command{
		Use:   "metrics",
		Short: "Print the numbers of the running server, as Prometheus reads them",
		Long: "Print the numbers of the running server, in the text format of Prometheus: requests, faults, durations, workers, plugins.\n\n" +
			"A scraper gets the same from http://ADDRESS/metrics, if server.metrics names an address.",
		Example: "  tqserver metrics | grep '^tqserver_request_faults_total'\n" +
			"  tqserver metrics --json | jq '.[] | select(.name == \"tqserver_requests_in_flight\").series[]'",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			all, err := client.Metrics(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.print(cmd, all, nil)
			}
			return control.WriteMetrics(cmd.OutOrStdout(), all)
		},
	})
}
