// race measures one named job of a peer at a time.
package main

import (
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	_ "github.com/k8snetworkplumbingwg/whereabouts/pkg/allocate"
	_ "github.com/metal-stack/go-ipam"
	_ "k8s.io/kubernetes/pkg/controller/nodeipam/ipam/cidrset"
	_ "k8s.io/kubernetes/pkg/registry/core/service/allocator"
)

func main() {}
