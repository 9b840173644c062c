// Reads dashboards as Grafana's schema has them, strictly: a field that is unknown, missing or of another type is told.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	for _, name := range os.Args[1:] {
		raw, err := os.ReadFile(name)
		if err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		var read dashboard.Dashboard
		tell(name, read.UnmarshalJSONStrict(raw))
		tell(name, read.Validate())
	}
}

// No faults come as an error without a text.
func tell(name string, err error) {
	if err != nil && err.Error() != "" {
		fmt.Printf("%s: %v\n", name, err)
	}
}
