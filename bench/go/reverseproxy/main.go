// A peer: Go's own httputil.ReverseProxy before one backend, with a pool of kept connections.
//
// Usage: reverseproxy LISTEN BACKEND [BUNDLE...], both as host:port; with PEM bundles (certificates and key) it
// serves their names over TLS.
package main

import (
	"crypto/tls"
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
	if len(os.Args) < 3 {
		log.Fatal("usage: reverseproxy LISTEN BACKEND [BUNDLE...]")
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
	server := &http.Server{Addr: os.Args[1], Handler: proxy}
	if len(os.Args) == 3 {
		log.Fatal(server.ListenAndServe())
	}
	server.TLSConfig = &tls.Config{}
	for _, bundle := range os.Args[3:] {
		pair, err := tls.LoadX509KeyPair(bundle, bundle)
		if err != nil {
			log.Fatal(err)
		}
		server.TLSConfig.Certificates = append(server.TLSConfig.Certificates, pair)
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
