"""Which bytes of a checkpoint make which bytes of each rank, as data: by our layouts, or as the library shards."""
