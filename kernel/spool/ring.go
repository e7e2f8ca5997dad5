package spool

// ring is a queue of at most recentLimit records. It grows as it is used, and then costs nothing per record.
type ring struct {
	recs  []record // its length is the capacity of the ring
	first int      // index of the oldest
	n     int      // of those in use
}

func (r *ring) len() int { return r.n }

// push adds the newest. There must be room: fewer than recentLimit.
func (r *ring) push(rec record) {
	if r.n == len(r.recs) {
		grown := make([]record, min(max(2*r.n, 8), recentLimit))
		copy(grown, r.list())
		r.recs, r.first = grown, 0
	}
	r.recs[(r.first+r.n)%len(r.recs)] = rec
	r.n++
}

// pop removes the oldest. There must be one.
func (r *ring) pop() record {
	rec := r.recs[r.first]
	r.recs[r.first] = record{}
	r.first = (r.first + 1) % len(r.recs)
	r.n--
	return rec
}

// list gives a copy, oldest first.
func (r *ring) list() []record {
	out := make([]record, 0, r.n)
	head := r.recs[r.first:min(r.first+r.n, len(r.recs))]
	out = append(out, head...)
	return append(out, r.recs[:r.n-len(head)]...)
}
