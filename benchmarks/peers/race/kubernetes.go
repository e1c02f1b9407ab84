package main

import (
	"errors"
	"net"

	"k8s.io/kubernetes/pkg/controller/nodeipam/ipam/cidrset"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
)

// bitmap is what Kubernetes gives service addresses out of: bit n stands for address n + 1, and the search begins at random.
type bitmap struct {
	of   setting
	bits *allocator.AllocationBitmap
	last int
}

func newBitmap(s setting) (contestant, error) {
	made := allocator.NewAllocationMap(s.size()-2, s.pool.String())
	for _, n := range s.numbers {
		if ok, err := made.Allocate(n - 1); err != nil || !ok {
			return nil, errors.Join(errors.New("could not be filled"), err)
		}
	}
	return &bitmap{of: s, bits: made}, nil
}

func (b *bitmap) acquire() error {
	last, ok, err := b.bits.AllocateNext()
	if !ok {
		return errors.Join(errors.New("no address is left"), err)
	}
	b.last = last
	return err
}

func (b *bitmap) acquired() string { return b.of.address(b.last + 1).String() }

func (b *bitmap) release() error { return b.bits.Release(b.last) }

func (b *bitmap) close() {}

// cidrs is what Kubernetes' node controller gives blocks for nodes out of.
type cidrs struct {
	set  *cidrset.CidrSet
	last *net.IPNet
}

func newCidrSet(s setting) (contestant, error) {
	_, pool, err := net.ParseCIDR(s.pool.String())
	if err != nil {
		return nil, err
	}
	made, err := cidrset.NewCIDRSet(pool, s.length)
	if err != nil {
		return nil, err
	}
	for _, n := range s.numbers {
		_, piece, err := net.ParseCIDR(s.piece(n).String())
		if err != nil {
			return nil, err
		}
		if err := made.Occupy(piece); err != nil {
			return nil, err
		}
	}
	return &cidrs{set: made}, nil
}

func (c *cidrs) acquire() (err error) {
	c.last, err = c.set.AllocateNext()
	return err
}

func (c *cidrs) acquired() string { return c.last.String() }

func (c *cidrs) release() error { return c.set.Release(c.last) }

func (c *cidrs) close() {}
