#!/bin/sh
# Removes one lab: processes, namespaces, mounts, files. This is the only place that does: the watchdog of a lab, the
# sweep before a new lab, and whoever kept a lab, all run this file, which lies in the lab's directory.
# usage: sh /run/futago-lab/ID/remove [when-owner-ends]
remove() {
    dir=$(dirname "$0")
    id=$(basename "$dir")
    if [ "$1" = when-owner-ends ]; then
        cat >/dev/null # a pipe that only the owner holds: it ends with the owner, whatever ended it
        [ -e "$dir/keep" ] && exit 0
    fi
    # Two removals of one lab may run at once (watchdog and sweep): the second waits, and finds nothing to do.
    exec 9>"$dir/removing" || exit 0
    flock 9
    [ -e "$dir/remove" ] || exit 0

    rounds=0
    while [ $rounds -lt 50 ]; do
        pids=
        for ns in /run/netns/futago-"$id".*; do
            [ -e "$ns" ] && pids="$pids $(ip netns pids "$(basename "$ns")")"
        done
        pids=$(echo $pids)
        [ -z "$pids" ] && break
        kill -KILL $pids 2>/dev/null
        sleep 0.05
        rounds=$((rounds + 1))
    done
    for mount in "$dir"/*/bpf; do
        if mountpoint -q "$mount"; then umount "$mount" || umount -l "$mount"; fi
    done
    for ns in /run/netns/futago-"$id".*; do
        [ -e "$ns" ] && ip netns del "$(basename "$ns")"
    done
    rm -rf --one-file-system "/var/tmp/futago-lab/$id" "$dir"
}
remove "$@"
exit
