// SPDX-License-Identifier: GPL-3.0-or-later
// Go's own resolver, as libc.c.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

func ask(r *net.Resolver, kind, name string) (string, error) {
	c := context.Background()
	var err error
	switch kind {
	case "A", "AAAA":
		network := map[string]string{"A": "ip4", "AAAA": "ip6"}[kind]
		var found []net.IP
		found, err = r.LookupIP(c, network, name)
		text := ""
		for _, ip := range found {
			text += ip.String() + " "
		}
		return text, err
	case "MX":
		_, err = r.LookupMX(c, name)
	case "TXT":
		_, err = r.LookupTXT(c, name)
	case "SRV":
		_, _, err = r.LookupSRV(c, "", "", name)
	case "NS":
		_, err = r.LookupNS(c, name)
	case "PTR":
		var names []string
		names, err = r.LookupAddr(c, name)
		return strings.Join(names, " "), err
	}
	return "ok", err
}

func main() {
	r := &net.Resolver{PreferGo: true}
	for _, question := range os.Args[1:] {
		kind, name, _ := strings.Cut(question, ":")
		answer, err := ask(r, kind, name)
		var failed *net.DNSError
		if errors.As(err, &failed) {
			answer = failed.Err
		} else if err != nil {
			answer = err.Error()
		}
		fmt.Printf("%s = %s\n", question, answer)
	}
}
