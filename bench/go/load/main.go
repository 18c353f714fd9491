// A loader: requests over keep-alive connections, as fast as they are answered or at a constant rate; over TLS
// also for many names, and with tickets of connections before.
//
// At a constant rate every request has a time at which it is due. One that could not be sent then because
// its connection still waited for an answer counts from when it was due, not from when it was sent: what a
// slow proxy delays is not omitted. The result is one line of JSON.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	dialTimeout = 5 * time.Second
	grace       = 5 * time.Second // for what is under way at the end
)

type headers []string

func (h *headers) String() string { return strings.Join(*h, ", ") }
func (h *headers) Set(text string) error {
	*h = append(*h, text)
	return nil
}

// plan is what every connection does.
type plan struct {
	address  string
	tls      bool
	names    *names
	method   string
	begin    time.Time
	end      time.Time
	also     int           // a status that is no error, besides 200; 0: none
	interval time.Duration // between two requests of one connection; 0: as fast as answered
}

// tally is what one connection saw.
type tally struct {
	latencies  []time.Duration
	bytes      int64
	errors     map[string]int
	others     int
	handshakes int
	resumed    int
	negotiated map[string]int
}

type client struct {
	plan     *plan
	socket   net.Conn
	request  []byte
	reader   *bufio.Reader
	sessions tls.ClientSessionCache
	tally    tally
	number   int
}

func (c *client) close() {
	if c.socket != nil {
		c.socket.Close()
		c.socket = nil
	}
}

var (
	errNoMore = errors.New("no more connections are to be opened")
	errOther  = errors.New("the other status that is no error")
)

// exchange sends one request and reads its answer to the end; errNoMore ends the client, errOther does not.
func (c *client) exchange() error {
	if c.socket == nil {
		if err := c.connect(); err != nil {
			return err
		}
	}
	request := c.request
	if before, after, varies := bytes.Cut(request, []byte("{n}")); varies {
		// A header with {n} in it is another one in each request.
		c.number++
		request = slices.Concat(before, []byte(strconv.Itoa(c.number)), after)
	}
	if _, err := c.socket.Write(request); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	answer, err := http.ReadResponse(c.reader, &http.Request{Method: c.plan.method})
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	size, err := io.Copy(io.Discard, answer.Body)
	c.tally.bytes += size
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	other := answer.StatusCode != 200
	if other && answer.StatusCode != c.plan.also {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	if answer.Close {
		c.close()
	}
	if other {
		return errOther
	}
	return nil
}

// run sends requests, the first one `offset` after the beginning, until the end.
func (c *client) run(offset time.Duration) {
	c.tally.errors, c.tally.negotiated = map[string]int{}, map[string]int{}
	defer c.close()
	// The time before it is not counted.
	time.Sleep(time.Until(c.plan.begin))
	for due := c.plan.begin.Add(offset); ; due = due.Add(c.plan.interval) {
		start := time.Now()
		if c.plan.interval > 0 {
			if early := due.Sub(start); early > 0 {
				// That this program wakes up late is not the proxy's doing.
				time.Sleep(early)
				start = time.Now()
			} else {
				start = due
			}
		}
		if !start.Before(c.plan.end) || time.Now().After(c.plan.end.Add(4*time.Second)) {
			return
		}
		if err := c.exchange(); err == errNoMore {
			return
		} else if err == errOther {
			c.tally.others++
			continue
		} else if err != nil {
			c.tally.errors[reason(err)]++
			c.close()
			// A refusing proxy is not to be hammered.
			time.Sleep(time.Millisecond)
			continue
		}
		c.tally.latencies = append(c.tally.latencies, time.Since(start))
	}
}

// reason is the error without what differs from one connection to the next.
func reason(err error) string {
	text := err.Error()
	if first := strings.Index(text, "127.0.0.1"); first >= 0 {
		text = text[:first] + text[strings.LastIndex(text, ": ")+2:]
	}
	return text
}

func report(tallies []tally, asked int, elapsed float64) map[string]any {
	var all []time.Duration
	var size int64
	handshakes, resumed, others := 0, 0, 0
	errors, negotiated := map[string]int{}, map[string]int{}
	for _, one := range tallies {
		all = append(all, one.latencies...)
		size += one.bytes
		for text, count := range one.errors {
			errors[text] += count
		}
		others += one.others
		handshakes += one.handshakes
		resumed += one.resumed
		for text, count := range one.negotiated {
			negotiated[text] += count
		}
	}
	slices.Sort(all)
	quantiles := map[string]float64{}
	for name, part := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1} {
		if len(all) > 0 {
			index := min(int(part*float64(len(all))), len(all)-1)
			quantiles[name] = float64(all[index]) / 1e6
		}
	}
	return map[string]any{
		"requests": len(all), "bytes": size, "seconds": elapsed,
		"errors": errors, "milliseconds": quantiles, "asked": asked, "others": others,
		"handshakes": handshakes, "resumed": resumed, "negotiated": negotiated,
	}
}

func main() {
	var fields headers
	connections := flag.Int("connections", 64, "connections")
	seconds := flag.Int("seconds", 5, "how long")
	rate := flag.Float64("rate", 0, "requests a second over all connections; 0: as many as are answered")
	method := flag.String("method", "GET", "method")
	body := flag.Int("body", 0, "bytes of each request's body")
	also := flag.Int("also", 0, "a status that is no error, besides 200")
	address := flag.String("connect", "", "host:port to connect to, whatever the URL's name is")
	file := flag.String("names", "", "a file of names, one a line: each connection is for one of them, by chance")
	each := flag.Bool("each", false, "one connection for each name, then end")
	first := flag.Int("first", 0, "only so many of the names; 0: all")
	resume := flag.Bool("resume", false, "each client uses the tickets of its connections before")
	flag.Var(&fields, "header", "a header field, repeatable")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(800)
	target, err := url.Parse(flag.Arg(0))
	if err != nil || target.Host == "" {
		fmt.Fprintln(os.Stderr, "usage: load [options] http[s]://host:port/path")
		os.Exit(2)
	}
	hosts, err := namesFrom(*file, target.Hostname())
	if err != nil || len(hosts) == 0 {
		fmt.Fprintln(os.Stderr, "no names:", err)
		os.Exit(2)
	}
	if *first > 0 {
		hosts = hosts[:min(*first, len(hosts))]
	}
	if *address == "" {
		*address = target.Host
	}
	head := ""
	if *body > 0 {
		head = fmt.Sprintf("Content-Length: %d\r\n", *body)
	}
	for _, field := range fields {
		head += field + "\r\n"
	}
	wanted := &names{each: *each}
	for _, host := range hosts {
		line := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s:%s\r\n", *method, target.RequestURI(), host, target.Port())
		request := append([]byte(line+head+"\r\n"), make([]byte, *body)...)
		wanted.sites = append(wanted.sites, site{host, request})
	}
	begin := time.Now().Add(100 * time.Millisecond)
	end := begin.Add(time.Duration(*seconds) * time.Second)
	work := &plan{*address, target.Scheme == "https", wanted, *method, begin, end, *also, 0}
	if *rate > 0 {
		work.interval = time.Duration(float64(*connections) / *rate * 1e9)
	}
	tallies := make([]tally, *connections)
	var group sync.WaitGroup
	for number := range *connections {
		group.Go(func() {
			// What {n} stands for is never the same on two connections.
			one := client{plan: work, number: number * 1_000_000_000}
			if *resume {
				one.sessions = tls.NewLRUClientSessionCache(2 * len(hosts))
			}
			one.run(work.interval * time.Duration(number) / time.Duration(*connections))
			tallies[number] = one.tally
		})
	}
	group.Wait()
	elapsed := time.Since(begin).Seconds()
	json.NewEncoder(os.Stdout).Encode(report(tallies, int(*rate*float64(*seconds)), elapsed))
}
