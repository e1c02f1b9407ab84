package main

import (
	"context"
	"encoding/json"
	"net/netip"

	ipam "github.com/metal-stack/go-ipam"
)

// go-ipam with its memory storage. What is held is loaded the way its own dumps are.

type stored struct {
	Cidr                   string
	ParentCidr             string
	Namespace              string
	AvailableChildPrefixes map[string]bool
	IsParent               bool
	IPs                    map[string]bool
	Version                int64
}

// used are the addresses that go-ipam keeps out of use in each prefix.
func used(prefix netip.Prefix) map[string]bool {
	s := setting{pool: prefix, length: 32}
	return map[string]bool{s.address(0).String(): true, s.address(s.size() - 1).String(): true}
}

func loaded(prefixes []stored) (ipam.Ipamer, error) {
	ctx := context.Background()
	dump, err := json.Marshal(prefixes)
	if err != nil {
		return nil, err
	}
	made := ipam.NewWithStorage(ipam.NewMemory(ctx))
	return made, made.Load(ctx, string(dump))
}

type goIpamAddress struct {
	ipam ipam.Ipamer
	cidr string
	last *ipam.IP
}

func newGoIpamAddress(s setting) (contestant, error) {
	ips := used(s.pool)
	for _, n := range s.numbers {
		ips[s.address(n).String()] = true
	}
	made, err := loaded([]stored{{Cidr: s.pool.String(), AvailableChildPrefixes: map[string]bool{}, IPs: ips}})
	return &goIpamAddress{ipam: made, cidr: s.pool.String()}, err
}

func (g *goIpamAddress) acquire() (err error) {
	g.last, err = g.ipam.AcquireIP(context.Background(), g.cidr)
	return err
}

func (g *goIpamAddress) acquired() string { return g.last.IP.String() }

func (g *goIpamAddress) release() error {
	_, err := g.ipam.ReleaseIP(context.Background(), g.last)
	return err
}

func (g *goIpamAddress) close() {}

type goIpamBlock struct {
	ipam   ipam.Ipamer
	cidr   string
	length uint8
	last   *ipam.Prefix
}

func newGoIpamBlock(s setting) (contestant, error) {
	parent := stored{Cidr: s.pool.String(), AvailableChildPrefixes: map[string]bool{}, IsParent: true, IPs: used(s.pool)}
	prefixes := make([]stored, 1, len(s.numbers)+1)
	for _, n := range s.numbers {
		piece := s.piece(n)
		parent.AvailableChildPrefixes[piece.String()] = false
		prefixes = append(prefixes, stored{
			Cidr: piece.String(), ParentCidr: parent.Cidr, AvailableChildPrefixes: map[string]bool{}, IPs: used(piece),
		})
	}
	prefixes[0] = parent
	made, err := loaded(prefixes)
	return &goIpamBlock{ipam: made, cidr: parent.Cidr, length: uint8(s.length)}, err
}

func (g *goIpamBlock) acquire() (err error) {
	g.last, err = g.ipam.AcquireChildPrefix(context.Background(), g.cidr, g.length)
	return err
}

func (g *goIpamBlock) acquired() string { return g.last.Cidr }

func (g *goIpamBlock) release() error { return g.ipam.ReleaseChildPrefix(context.Background(), g.last) }

func (g *goIpamBlock) close() {}
