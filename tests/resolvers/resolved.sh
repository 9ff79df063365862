#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# systemd-resolved as a plain process, with avne's resolver as its server, asked by its stub with dig.
#   resolved.sh fetch DIR    put the program into DIR, without installing it: that would change /etc/resolv.conf
#   resolved.sh DIR TYPE:NAME …
# It wants a user that is not root (or it looks for one of its own), and port 53 takes a capability
# that nobody has in an environment: the stub has another port.
set -eu
port=5354

if [ "$1" = fetch ]; then
    cd "$2"
    apt-get -q download systemd-resolved
    dpkg-deb --fsys-tarfile systemd-resolved_*.deb | tar -xO ./lib/systemd/systemd-resolved >systemd-resolved
    chmod 755 systemd-resolved
    exit 0
fi

directory=$1
shift
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
cat >/run/systemd/resolved.conf.d/avne.conf <<END
[Resolve]
DNS=10.213.0.1
FallbackDNS=
LLMNR=no
MulticastDNS=no
DNSStubListenerExtra=127.0.0.53:$port
END
"$directory/systemd-resolved" 2>/tmp/resolved.log &
tries=0
until dig -p $port @127.0.0.53 +tries=1 +time=5 localhost >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { cat /tmp/resolved.log >&2; exit 1; }
done
at="-p $port @127.0.0.53" sh "$directory/dig.sh" "$@"
