package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
)

const network = "race"

// hostLocal is host-local's allocator and its store on a disk, without a process for each call.
type hostLocal struct {
	directory string
	store     *disk.Store
	allocator *allocator.IPAllocator
	last      net.IP
}

// newHostLocal holds addresses through host-local's own store. Its gateway is the first address, which is never given out.
func newHostLocal(s setting) (contestant, error) {
	directory, err := os.MkdirTemp(s.directory, "host-local-")
	if err != nil {
		return nil, err
	}
	made := &hostLocal{directory: directory}
	ranges := allocator.RangeSet{{Subnet: types.IPNet{IP: s.pool.Addr().AsSlice(), Mask: net.CIDRMask(s.pool.Bits(), 32)}}}
	if made.store, err = disk.New(network, directory); err == nil {
		err = ranges.Canonicalize()
	}
	if err != nil {
		made.close()
		return nil, err
	}
	made.allocator = allocator.NewIPAllocator(&ranges, made.store, 0)
	for _, n := range s.numbers {
		if ok, err := made.store.Reserve(fmt.Sprintf("%064x", n), "eth0", s.address(n).AsSlice(), "0"); err != nil || !ok {
			made.close()
			return nil, fmt.Errorf("%s could not be reserved: %v", s.address(n), err)
		}
	}
	return made, nil
}

func (h *hostLocal) acquire() error {
	given, err := h.allocator.Get("pair", "eth0", nil)
	if err == nil {
		h.last = given.Address.IP
	}
	return err
}

func (h *hostLocal) acquired() string { return h.last.String() }

func (h *hostLocal) release() error { return h.allocator.Release("pair", "eth0") }

func (h *hostLocal) close() {
	if h.store != nil {
		h.store.Close()
	}
	os.RemoveAll(h.directory)
}

// hostLocalProcess is host-local as a container runtime runs it: a process for each ADD and each DEL.
type hostLocalProcess struct {
	*hostLocal
	program string
	conf    []byte
}

func newHostLocalProcess(s setting) (contestant, error) {
	held, err := newHostLocal(s)
	if err != nil {
		return nil, err
	}
	inner := held.(*hostLocal)
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0",
		"name":       network,
		"ipam":       map[string]any{"type": "host-local", "subnet": s.pool.String(), "dataDir": inner.directory},
	})
	return &hostLocalProcess{inner, s.program, conf}, err
}

func (h *hostLocalProcess) call(verb string) ([]byte, error) {
	command := exec.Command(h.program)
	command.Stdin = bytes.NewReader(h.conf)
	command.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=pair", "CNI_NETNS=/none", "CNI_IFNAME=eth0", "CNI_PATH=/none",
	}
	told, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("host-local %s: %w: %s", verb, err, told)
	}
	return told, nil
}

func (h *hostLocalProcess) acquire() error {
	told, err := h.call("ADD")
	if err != nil {
		return err
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal(told, &result); err != nil || len(result.IPs) != 1 {
		return fmt.Errorf("host-local ADD answered %s (%v)", told, err)
	}
	address, _, err := net.ParseCIDR(result.IPs[0].Address)
	h.last = address
	return err
}

func (h *hostLocalProcess) release() error {
	_, err := h.call("DEL")
	return err
}
