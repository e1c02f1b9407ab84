// Command lines lets go-ipam with its memory storage answer the JSON lines of `ciliumipam torture`.
//
// Its two writers are two Ipamers on one storage, which is how go-ipam is meant to be used by several processes. With the argument
// "careful" it is never asked to release the first or last address of a prefix, which no caller can hold.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"

	ipam "github.com/metal-stack/go-ipam"
)

type request struct {
	Do      string    `json:"do"`
	Network string    `json:"network"`
	Owner   string    `json:"owner"`
	Address string    `json:"address"`
	Writer  int       `json:"writer"`
	Calls   []request `json:"calls"`
}

type answer map[string]any

type server struct {
	writers     [2]ipam.Ipamer
	cidr        string
	careful     bool
	first, last netip.Addr
}

func main() {
	requests := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	served := server{careful: len(os.Args) > 1 && os.Args[1] == "careful"}
	for requests.Scan() {
		var asked request
		if err := json.Unmarshal(requests.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, "a request that is no JSON:", err)
			os.Exit(1)
		}
		if err := answers.Encode(served.answer(asked)); err != nil {
			fmt.Fprintln(os.Stderr, "the answer cannot be written:", err)
			os.Exit(1)
		}
	}
}

func (s *server) answer(asked request) answer {
	switch asked.Do {
	case "hello":
		return answer{
			"protocol": 1,
			"name":     "go-ipam " + version("github.com/metal-stack/go-ipam"),
			"claims":   answer{"again": "another", "releaseBy": "address", "given": true, "writers": "at once"},
		}
	case "open":
		return s.open(asked.Network)
	case "together":
		return s.together(asked.Calls)
	default:
		return s.call(asked)
	}
}

// open serves a range anew. go-ipam keeps the first address of a prefix for itself, and of IPv4 the last one, whatever its length.
func (s *server) open(cidr string) answer {
	storage := ipam.NewMemory(context.Background())
	s.writers = [2]ipam.Ipamer{ipam.NewWithStorage(storage), ipam.NewWithStorage(storage)}
	prefix, err := s.writers[0].NewPrefix(context.Background(), cidr)
	if err != nil {
		return answer{"refused": err.Error()}
	}
	s.cidr = prefix.Cidr
	whole := netip.MustParsePrefix(cidr)
	first, last := whole.Addr(), lastOf(whole)
	s.first, s.last = first, last
	if first == last {
		return answer{"offer": [][2]string{}}
	}
	first = first.Next()
	if last.Is4() {
		last = last.Prev()
	}
	if last.Less(first) {
		return answer{"offer": [][2]string{}}
	}
	return answer{"offer": [][2]string{{first.String(), last.String()}}}
}

func lastOf(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	for bit := prefix.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func (s *server) together(calls []request) answer {
	answers := make([]answer, len(calls))
	begin := make(chan struct{})
	done := make(chan struct{})
	for number, call := range calls {
		go func() {
			<-begin
			answers[number] = s.call(call)
			done <- struct{}{}
		}()
	}
	close(begin)
	for range calls {
		<-done
	}
	return answer{"answers": answers}
}

func (s *server) call(asked request) answer {
	writer := s.writers[asked.Writer]
	switch asked.Do {
	case "allocate":
		given, err := writer.AcquireSpecificIP(context.Background(), s.cidr, asked.Address)
		switch {
		case err == nil && given != nil:
			return answer{"address": given.IP.String()}
		case err == nil:
			return answer{"refused": "neither an address nor an error"}
		case errors.Is(err, ipam.ErrNoIPAvailable):
			return answer{"exhausted": err.Error()}
		case errors.Is(err, ipam.ErrOptimisticLockError):
			return answer{"failed": err.Error()}
		default:
			return answer{"refused": err.Error()}
		}
	case "release":
		if s.careful && s.keepsBack(asked.Address) {
			return answer{"refused": "nobody can hold " + asked.Address}
		}
		err := writer.ReleaseIPFromPrefix(context.Background(), s.cidr, asked.Address)
		switch {
		case err == nil:
			return answer{"done": true}
		case errors.Is(err, ipam.ErrOptimisticLockError):
			return answer{"failed": err.Error()}
		default:
			return answer{"refused": err.Error()}
		}
	default:
		return answer{"failed": "there is no such request as " + asked.Do}
	}
}

func (s *server) keepsBack(address string) bool {
	return address == s.first.String() || (s.last.Is4() && address == s.last.String())
}

// version is that of a module in this program.
func version(module string) string {
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, each := range build.Deps {
			if each.Path == module {
				return each.Version
			}
		}
	}
	return "of unknown version"
}
