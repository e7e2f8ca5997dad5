package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/", handler(os.Getenv("TQ_ROUTE")))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("TQ_PORT"), mux))
}
