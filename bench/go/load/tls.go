package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
)

// site is one name that connections are opened for, and the request that is sent there.
type site struct {
	name    string
	request []byte
}

// names tells which site each new connection is for.
type names struct {
	sites []site
	each  bool // every site once, then no more
	taken atomic.Int64
}

func (n *names) next() (site, bool) {
	if n.each {
		number := int(n.taken.Add(1)) - 1
		if number >= len(n.sites) {
			return site{}, false
		}
		return n.sites[number], true
	}
	return n.sites[rand.IntN(len(n.sites))], true
}

// namesFrom reads one name a line; without a file there is the one name.
func namesFrom(file, name string) ([]string, error) {
	if file == "" {
		return []string{name}, nil
	}
	text, err := os.ReadFile(file)
	return strings.Fields(string(text)), err
}

// secured shakes hands, with a ticket of before if this client keeps them, and counts what was agreed on.
//
// The chain is not followed up here: that costs the load's core more than anything else, and is looked at
// before the load. But every certificate must be one for the name, and the server must have its key.
func (c *client) secured(socket net.Conn, name string) (net.Conn, error) {
	config := &tls.Config{
		ServerName: name,
		MinVersion: tls.VersionTLS13,
		// The servers' libraries do not all know the same newer groups: all do the same work.
		CurvePreferences:   []tls.CurveID{tls.X25519},
		NextProtos:         []string{"http/1.1"},
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return state.PeerCertificates[0].VerifyHostname(name) },
		ClientSessionCache: c.sessions,
	}
	conn := tls.Client(socket, config)
	if err := conn.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	state := conn.ConnectionState()
	c.tally.handshakes++
	if state.DidResume {
		c.tally.resumed++
	}
	c.tally.negotiated[fmt.Sprintf(
		"%s %s %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID)]++
	return conn, nil
}

// connect opens the client's next connection; errNoMore if there is to be none.
func (c *client) connect() error {
	site, more := c.plan.names.next()
	if !more {
		return errNoMore
	}
	socket, err := net.DialTimeout("tcp", c.plan.address, dialTimeout)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// Whatever is still open when it ends, and then a little: nothing hangs.
	socket.SetDeadline(c.plan.end.Add(grace))
	c.socket, c.request = socket, site.request
	if c.plan.tls {
		if c.socket, err = c.secured(socket, site.name); err != nil {
			socket.Close()
			c.socket = nil
			return err
		}
	}
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(nil, 64*1024)
	}
	c.reader.Reset(c.socket)
	return nil
}
