package worker

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

const defaultPort = 9000

// environment reads variables and collects what is wrong with them, so that
// one start reports all of it.
type environment struct{ problems []error }

func (e *environment) count(name string, fallback int, form string) int {
	return e.number(name, fallback, 0, 1<<31-1, form)
}

func (e *environment) number(name string, fallback, low, high int, form string) int {
	value := os.Getenv(name)
	if value == "" {
		return fallback
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		e.problems = append(e.problems, malformed(name, value, form))
		return fallback
	}
	return n
}

func (e *environment) text(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func (e *environment) err(more error) error {
	return errors.Join(append(e.problems, more)...)
}

func malformed(name, value, form string) error {
	return fmt.Errorf("worker: read %s=%q: expected %s", name, value, form)
}
