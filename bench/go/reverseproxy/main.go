// A peer: Go's own httputil.ReverseProxy before one backend, with a pool of kept connections.
//
// Usage: reverseproxy LISTEN BACKEND, both as host:port.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
)

// buffers spares the garbage collector one buffer for each answer, as a careful program would.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte  { return b.pool.Get().([]byte) }
func (b *buffers) Put(x []byte) { b.pool.Put(x) }

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: reverseproxy LISTEN BACKEND")
	}
	backend := &url.URL{Scheme: "http", Host: os.Args[2]}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(backend)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
		},
		Transport:  &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 256, DisableCompression: true},
		BufferPool: &buffers{sync.Pool{New: func() any { return make([]byte, 32*1024) }}},
	}
	log.Fatal(http.ListenAndServe(os.Args[1], proxy))
}
