// Command srfake serves a registry of franz-go's srfake, an implementation of the REST API of
// Confluent's schema registry that shares no code with Ottla.
//
// It prints its URL, and ends with its input. With an argument, requests need this value of the
// header Authorization.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/twmb/franz-go/pkg/sr/srfake"
)

func main() {
	var options []srfake.Option
	if len(os.Args) > 1 {
		options = append(options, srfake.WithAuth(os.Args[1]))
	}
	registry := srfake.New(options...)
	defer registry.Close()
	fmt.Println(registry.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
}
