package main

import (
	"log"

	"github.com/tqserver/tqserver/sdk/worker"
)

func main() {
	runtime, err := worker.NewRuntime()
	if err != nil {
		log.Fatal(err)
	}
	if err := runtime.StartServer(handler(runtime.Route)); err != nil {
		log.Fatal(err)
	}
}
