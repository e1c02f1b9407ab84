"""What this library tests itself with, and what others can test their stores, allocators and controllers with.

    conformance, wrong_stores    is it a store?
    torture                      is it an allocator, in whatever language?
    strategies                   clusters, pools and pods for property tests; `record_strategies`, `carver_strategies`: of the inside
    *_oracle                     slow twins, which share no code with what they judge
    control_plane, api_proxy     a real API server and etcd, and faults on the way to it
    faults, crashing, fuzz       stores that fail, calls killed after each write, lives of clusters
    interleave, scenarios        every order of the steps of several writers

`docs/reference/testing.md` has all modules and names. Nothing here is loaded by `import ciliumipam`.
"""
