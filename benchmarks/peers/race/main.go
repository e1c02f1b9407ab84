// race measures one job of one peer at a time, as it is told to by the driver (`python -m benchmarks.peers`), which makes ours and
// theirs take turns. A line of JSON in, a line of JSON out.
//
// What is called are the peers' own packages with all that they do, their locks and their metrics included.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// request is what the driver says: "about", "prepare" or "measure".
type request struct {
	Do        string `json:"do"`
	Peer      string `json:"peer"`
	Job       string `json:"job"`    // "address" or "block"
	Pool      string `json:"pool"`   // the CIDR that is given out of
	Length    int    `json:"length"` // of what is given out
	Held      string `json:"held"`   // a bitmap in hexadecimal: bit n is the n-th address or block of the pool
	Directory string `json:"directory"`
	Program   string `json:"program"`
	Budget    int64  `json:"budget"` // nanoseconds
}

// reply is what it hears.
type reply struct {
	Peer     string            `json:"peer,omitempty"`
	Job      string            `json:"job,omitempty"`
	Pool     string            `json:"pool,omitempty"`
	Held     int               `json:"held,omitempty"`
	Pairs    int64             `json:"pairs,omitempty"`
	PerPair  float64           `json:"nanoseconds,omitempty"` // of one pair
	Versions map[string]string `json:"versions,omitempty"`
	Refused  string            `json:"refused,omitempty"`
}

// contestant takes one piece out of what is free, and gives it back.
type contestant interface {
	acquire() error
	acquired() string // what the last acquire gave, for the check that it was free
	release() error
	close()
}

// setting is a request in the terms of this program.
type setting struct {
	pool      netip.Prefix
	length    int
	held      *big.Int
	numbers   []int // of what is held, in order
	directory string
	program   string
}

// address is the n-th address of the pool.
func (s setting) address(n int) netip.Addr {
	if !s.pool.Addr().Is4() {
		panic("only IPv4 pools take part")
	}
	b := s.pool.Addr().As4()
	first := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v := first + uint32(n)<<(32-s.length)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// piece is the n-th block of the pool.
func (s setting) piece(n int) netip.Prefix { return netip.PrefixFrom(s.address(n), s.length) }

// number is the inverse of address.
func (s setting) number(text string) (int, error) {
	text, _, _ = strings.Cut(text, "/")
	found, err := netip.ParseAddr(text)
	if err != nil || !s.pool.Contains(found.Unmap()) {
		return 0, fmt.Errorf("acquired %q, which is not in %s (%v)", text, s.pool, err)
	}
	b, first := found.Unmap().As4(), s.pool.Addr().As4()
	n := 0
	for i := range b {
		n = n<<8 + int(b[i]) - int(first[i])
	}
	return n >> (32 - s.length), nil
}

// size is how many pieces of the length the pool has.
func (s setting) size() int { return 1 << (s.length - s.pool.Bits()) }

var makers = map[string]func(setting) (contestant, error){
	"address go-ipam":            newGoIpamAddress,
	"address whereabouts":        newWhereabouts,
	"address kubernetes-bitmap":  newBitmap,
	"address host-local":         newHostLocal,
	"address host-local-process": newHostLocalProcess,
	"block go-ipam":              newGoIpamBlock,
	"block kubernetes-cidrset":   newCidrSet,
}

// race is one contestant, ready to be measured.
type race struct {
	contestant
	told  reply
	batch int64
}

func prepare(r request) (*race, error) {
	maker, ok := makers[r.Job+" "+r.Peer]
	if !ok {
		return nil, fmt.Errorf("no peer %q does the job %q", r.Peer, r.Job)
	}
	pool, err := netip.ParsePrefix(r.Pool)
	if err != nil {
		return nil, err
	}
	held, ok := new(big.Int).SetString("0"+r.Held, 16)
	if !ok {
		return nil, fmt.Errorf("%.20q is no bitmap", r.Held)
	}
	s := setting{pool: pool, length: r.Length, held: held, directory: r.Directory, program: r.Program}
	for n := range held.BitLen() {
		if held.Bit(n) == 1 {
			s.numbers = append(s.numbers, n)
		}
	}
	made, err := maker(s)
	if err != nil {
		return nil, err
	}
	if err := checked(s, made); err != nil {
		made.close()
		return nil, err
	}
	return &race{made, reply{Peer: r.Peer, Job: r.Job, Pool: r.Pool, Held: len(s.numbers)}, 1}, nil
}

// checked tries one pair: it has to be given something that is not held.
func checked(s setting, c contestant) error {
	if err := c.acquire(); err != nil {
		return err
	}
	n, err := s.number(c.acquired())
	if err != nil {
		return err
	}
	if s.held.Bit(n) == 1 {
		return fmt.Errorf("was given %s, which was held", c.acquired())
	}
	return c.release()
}

// measure runs pairs for about the budget, at least one.
func (r *race) measure(budget int64) (reply, error) {
	for {
		begin := time.Now()
		for range r.batch {
			if err := r.acquire(); err != nil {
				return reply{}, err
			}
			if err := r.release(); err != nil {
				return reply{}, err
			}
		}
		spent := int64(time.Since(begin)) + 1
		done := r.batch
		r.batch = max(1, min(int64(float64(done)*float64(budget)/float64(spent)), 100*done))
		if spent >= budget/2 {
			told := r.told
			told.Pairs, told.PerPair = done, float64(spent)/float64(done)
			return told, nil
		}
	}
}

// versions of what is measured, as they were built in.
func versions() map[string]string {
	told := map[string]string{}
	if built, ok := debug.ReadBuildInfo(); ok {
		told["go"] = strings.TrimPrefix(built.GoVersion, "go")
		for _, module := range built.Deps {
			told[module.Path] = module.Version
		}
	}
	return told
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	var running *race
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			break
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			log.Fatalf("not a request: %v", err)
		}
		told, err := reply{}, error(nil)
		switch r.Do {
		case "about":
			told.Versions = versions()
		case "prepare":
			if running != nil {
				running.close()
			}
			if running, err = prepare(r); err == nil {
				told = running.told
			}
			debug.FreeOSMemory()
		case "measure":
			told, err = running.measure(r.Budget)
		default:
			log.Fatalf("unknown request %q", r.Do)
		}
		if err != nil {
			told = reply{Refused: err.Error()}
		}
		if err := output.Encode(told); err != nil {
			log.Fatal(err)
		}
	}
	if running != nil {
		running.close()
	}
}
