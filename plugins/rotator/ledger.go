package rotator

import "github.com/tqserver/tqserver/sdk"

// ledger is what is stored of the newest batch of each stream, so that a batch which comes again after an error is not
// stored twice.
type ledger map[string]progress

// progress is how many lines of a batch are stored.
type progress struct {
	seq   uint64
	lines int
	all   bool
}

const streamLimit = 4096 // streams whose last batch is remembered

// of gives the progress of a batch.
func (l ledger) of(b sdk.Batch) progress {
	p := l[b.Stream]
	if p.seq != b.Seq || b.Seq == 0 { // 0: not numbered
		p = progress{seq: b.Seq}
	}
	return p
}

// remember takes the progress of the newest batch of a stream. Above the limit, streams with nothing open are forgotten.
func (l ledger) remember(stream string, p progress) {
	if _, ok := l[stream]; !ok && len(l) >= streamLimit {
		for other, p := range l {
			if p.all {
				delete(l, other)
			}
		}
	}
	l[stream] = p
}
