// The two programs of the test image: `pause`, which holds a pod's namespaces, and `esper`, a container of known
// behaviour for tests of what becomes of pods. DO says what it does: "exit N", "sleep SECONDS", or "wait" for SIGTERM.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// As esper does when a signal ends it before its work is done.
const interrupted = 130

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	if filepath.Base(os.Args[0]) == "pause" {
		<-ended
		return
	}
	fmt.Println(strings.Join(os.Args, " "))
	word, number, _ := strings.Cut(os.Getenv("DO"), " ")
	value, _ := strconv.Atoi(number)
	switch word {
	case "exit":
		os.Exit(value)
	case "sleep":
		select {
		case <-ended:
			os.Exit(interrupted)
		case <-time.After(time.Duration(value) * time.Second):
		}
	case "wait":
		<-ended
		os.Exit(interrupted)
	default:
		fmt.Fprintf(os.Stderr, "DO=%q: neither exit, sleep nor wait\n", os.Getenv("DO"))
		os.Exit(3)
	}
}
