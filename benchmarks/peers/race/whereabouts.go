package main

import (
	"fmt"
	"net"

	"github.com/k8snetworkplumbingwg/whereabouts/pkg/allocate"
	"github.com/k8snetworkplumbingwg/whereabouts/pkg/logging"
	"github.com/k8snetworkplumbingwg/whereabouts/pkg/types"
)

// whereabouts' choice of an address over a list of reservations; without its lease, its API server, its JSON and its debug lines
// (three for a pair, which would be most of the time at an empty pool).
type whereabouts struct {
	conf types.RangeConfiguration
	list []types.IPReservation
	last net.IPNet
}

func newWhereabouts(s setting) (contestant, error) {
	logging.SetLogLevel("error")
	made := &whereabouts{conf: types.RangeConfiguration{Range: s.pool.String()}}
	for _, n := range s.numbers {
		made.list = append(made.list, types.IPReservation{
			IP:          s.address(n).AsSlice(),
			ContainerID: fmt.Sprintf("%064x", n),
			PodRef:      fmt.Sprintf("default/pod-%d", n),
			IfName:      "eth0",
		})
	}
	return made, nil
}

func (w *whereabouts) acquire() (err error) {
	w.last, w.list, err = allocate.AssignIP(w.conf, w.list, "pair", "default/pair", "eth0")
	return err
}

func (w *whereabouts) acquired() string { return w.last.IP.String() }

func (w *whereabouts) release() error {
	list, released := allocate.DeallocateIP(w.list, "pair")
	if released == nil {
		return fmt.Errorf("%s was not held", w.last.IP)
	}
	w.list = list
	return nil
}

func (w *whereabouts) close() {}
