// Passing descriptors in Go: net.UnixConn's WriteMsgUnix and ReadMsgUnix. bench/README.md tells what w1 to w4 are, and what
// is printed. usage: passing WORKLOAD N
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const mostFds = 253 // SCM_MAX_FD

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func cpu() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

func status(key string) int {
	text, err := os.ReadFile("/proc/self/status")
	check(err)
	_, rest, _ := strings.Cut(string(text), key+":")
	value, err := strconv.Atoi(strings.Fields(rest)[0])
	check(err)
	return value
}

func openDescriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	check(err)
	return len(entries) - 1 // the folder itself
}

func fdOf(conn syscall.Conn) (fd int) {
	raw, err := conn.SyscallConn()
	check(err)
	check(raw.Control(func(number uintptr) { fd = int(number) }))
	return fd
}

func listenOnLoopback() *net.TCPListener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	return listener.(*net.TCPListener)
}

// A socket for messages of one byte.
type socket struct {
	conn    *net.UnixConn
	byte    [1]byte
	control []byte
	fds     []int
}

func newSocket(fd int) *socket {
	file := os.NewFile(uintptr(fd), "socket")
	conn, err := net.FileConn(file)
	check(err)
	check(file.Close())
	return &socket{conn: conn.(*net.UnixConn), control: make([]byte, syscall.CmsgSpace(mostFds*4))}
}

func (s *socket) send(rights []byte) {
	_, _, err := s.conn.WriteMsgUnix(s.byte[:], rights, nil)
	check(err)
}

// Gives the descriptors of the next message, which are valid until the next call; false at the end.
func (s *socket) receive() ([]int, bool) {
	length, controlLength, flags, _, err := s.conn.ReadMsgUnix(s.byte[:], s.control)
	if err == io.EOF || length == 0 {
		return nil, false
	}
	check(err)
	if flags&syscall.MSG_CTRUNC != 0 {
		panic("MSG_CTRUNC")
	}
	s.fds = s.fds[:0]
	if controlLength > 0 {
		messages, err := syscall.ParseSocketControlMessage(s.control[:controlLength])
		check(err)
		for i := range messages {
			fds, err := syscall.ParseUnixRights(&messages[i])
			check(err)
			s.fds = append(s.fds, fds...)
		}
	}
	return s.fds, true
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// What the receiving end tells.
type received struct {
	Cpu                          float64
	Fds, FirstRss, PeakRss, Open int
}

func receive(workload string, n int) {
	warmUp := n/10 + 1000
	socket := newSocket(3)
	listener := listenOnLoopback()
	defer listener.Close()
	rights := syscall.UnixRights(fdOf(listener))
	answer := make([]byte, 64)
	var result received
	var cpuBegun float64
	socket.send(nil) // ready
	for messages := 1; ; messages++ {
		fds, more := socket.receive()
		if !more {
			break
		}
		if workload == "w4" {
			for _, fd := range fds {
				syscall.Write(fd, answer)
			}
		}
		if messages == 1 {
			result.FirstRss = status("VmRSS")
		}
		if messages == warmUp {
			cpuBegun = cpu()
		}
		result.Fds += len(fds)
		closeAll(fds)
		if workload == "w1" {
			socket.send(rights)
		} else if messages == warmUp || messages == warmUp+n {
			socket.send(nil)
		}
	}
	result.Cpu, result.PeakRss, result.Open = cpu()-cpuBegun, status("VmHWM"), openDescriptors()
	check(json.NewEncoder(os.Stdout).Encode(result))
}

// Until it is killed.
func handOutConnections(socket *socket) {
	listener := listenOnLoopback()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.AcceptTCP()
		check(err)
		socket.send(syscall.UnixRights(fdOf(conn)))
		check(conn.Close())
	}
}

func main() {
	if os.Args[1] == "receive" {
		n, _ := strconv.Atoi(os.Args[3])
		receive(os.Args[2], n)
		return
	}
	workload := os.Args[1]
	n, _ := strconv.Atoi(os.Args[2])
	warmUp, count := n/10+1000, 1
	if batch, is := strings.CutPrefix(workload, "w3-"); is {
		count, _ = strconv.Atoi(batch)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	receiver := exec.Command("/proc/self/exe", "receive", workload, strconv.Itoa(n))
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	receiver.ExtraFiles = []*os.File{theirs}
	receiver.Stderr = os.Stderr
	output, err := receiver.StdoutPipe()
	check(err)
	check(receiver.Start())
	check(theirs.Close())
	socket := newSocket(pair[0])
	socket.receive() // ready
	if workload == "w4" {
		handOutConnections(socket)
	}

	listener := listenOnLoopback()
	defer listener.Close()
	own := fdOf(listener)
	fds := make([]int, count)
	for i := range fds {
		fds[i] = own
	}
	rights := syscall.UnixRights(fds...)
	var begun, ended time.Time
	var cpuBegun, cpuEnded float64
	var latencies []float64
	if workload == "w1" {
		trip := func() {
			socket.send(rights)
			fds, _ := socket.receive()
			closeAll(fds)
		}
		for range make([]struct{}, warmUp) {
			trip()
		}
		latencies = make([]float64, n)
		cpuBegun, begun = cpu(), time.Now()
		ended = begun
		for i := range latencies {
			before := ended
			trip()
			ended = time.Now()
			latencies[i] = ended.Sub(before).Seconds() * 1e6
		}
		cpuEnded = cpu()
		sort.Float64s(latencies)
	} else {
		stream := func(messages int) {
			for i := 0; i < messages; i++ {
				socket.send(rights)
			}
			socket.receive()
		}
		stream(warmUp)
		cpuBegun, begun = cpu(), time.Now()
		stream(n)
		ended, cpuEnded = time.Now(), cpu()
	}
	check(socket.conn.CloseWrite())
	var there received
	check(json.NewDecoder(output).Decode(&there))
	check(receiver.Wait())
	result := map[string]any{
		"seconds": ended.Sub(begun).Seconds(), "cpu": cpuEnded - cpuBegun + there.Cpu,
		"sent": (warmUp + n) * count, "received": there.Fds,
		"firstRss": there.FirstRss, "peakRss": there.PeakRss, "open": there.Open,
	}
	if latencies != nil {
		result["p50"], result["p99"] = latencies[n/2], latencies[n*99/100]
	}
	check(json.NewEncoder(os.Stdout).Encode(result))
}
