package replicated

import "hash/crc32"

// castagnoli is the polynomial of all checksums on the log and in snapshots:
// processors have an instruction for it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }
