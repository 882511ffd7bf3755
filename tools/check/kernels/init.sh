#!/bin/sh
# The first process in the virtual machine of kernels.mjs: mounts what the tests need, runs the suites, and ends the machine.
# The machine's files are this system's, read-only (hostfs), except the checkout. Folders that tests write to are in memory.
mount -t proc proc /proc
job=$(sed 's/.* job=\([^ ]*\).*/\1/' /proc/cmdline)
. "$job/settings" # checkout, busybox, modules, PATH
mount -t sysfs sysfs /sys
! grep -q security=smack /proc/cmdline || mount -t smackfs smackfs /sys/fs/smackfs
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
ln -snf /proc/self/fd /dev/fd
ln -snf /proc/self/fd/0 /dev/stdin
ln -snf /proc/self/fd/1 /dev/stdout
ln -snf /proc/self/fd/2 /dev/stderr

# Modules come before /tmp is covered, in which the checkout may be. Those that a module needs are listed after it, last first.
for module in ipv6 fuse sctp vsock; do
  for file in $("$busybox" sed -n "s|^\(.*/$module\.ko[.xz]*\):\(.*\)|\1\2|p" "$modules/modules.dep" | tr ' ' '\n' | "$busybox" tac); do
    "$busybox" insmod "$modules/$file"
  done
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/checkout /run/job /run/lock
cp "$busybox" /run/busybox
mount -t hostfs -o "$checkout" none /run/checkout
mount -t hostfs -o "$job" none /run/job
for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$folder"; done
mkdir -p "$checkout" && mount --bind /run/checkout "$checkout"
/run/busybox ip link set lo up
/run/busybox hostname kernel-under-test

ulimit -Hn 524288 # the limits that systemd sets
ulimit -Sn 1024
cd "$checkout" && sh /run/job/suites </dev/null >/run/job/output 2>&1
sync
/run/busybox poweroff -f
