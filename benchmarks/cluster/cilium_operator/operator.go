// Package stock keeps the checksums of what the benchmark builds: the operator of Cilium, as its authors wrote it.
package stock

import _ "github.com/cilium/cilium/operator/cmd"
