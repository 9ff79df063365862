#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# systemd-resolved's stub: `resolved.sh build DIR` fetches it without installing it (that would change the
# machine's own resolver), `resolved.sh run DIR TYPE:NAME …` starts it inside and asks it, by dig.
set -eu
what=$1 dir=$2
shift 2
if [ "$what" = build ]; then
    mkdir "$dir/resolved"
    cd "$dir/resolved"
    apt-get -q download systemd-resolved systemd libsystemd-shared libsystemd0
    for package in *.deb; do dpkg -x "$package" .; done
    printf '[Resolve]\nDNS=10.213.0.1\nDNSStubListener=no\nDNSStubListenerExtra=127.0.0.1:5300\n' >resolved.conf
    printf 'LLMNR=no\nMulticastDNS=no\nDNSSEC=no\n' >>resolved.conf
    chmod -R a+rX .
    cp "$0" "$dir/resolved.sh"
    exit
fi

there=$dir/resolved
libraries=$(echo "$there"/usr/lib/*/systemd):$(echo "$there"/usr/lib/*-linux-gnu*)
# Its runtime directory and configuration are where only a privileged user could put them.
bwrap --unshare-user --uid 65534 --gid 65534 --dev-bind / / --tmpfs /run --dir /run/systemd/resolve \
    --tmpfs /etc --dir /etc/systemd --ro-bind "$there/resolved.conf" /etc/systemd/resolved.conf \
    --ro-bind /etc/passwd /etc/passwd --setenv LD_LIBRARY_PATH "$libraries" \
    "$there/lib/systemd/systemd-resolved" 2>"$dir/resolved.log" &
export SERVER="@127.0.0.1 -p 5300"
tries=0
until dig $SERVER +tries=1 +time=5 localhost >/dev/null 2>&1 || [ $((tries += 1)) = 100 ]; do sleep 0.1; done
sh "$dir/dig.sh" "$@"
kill $!
