#!/usr/bin/env bash
# The first process of a container's namespaces: makes its root, then becomes its command.
#   rootfs.sh FOLDER COMMAND...
# FOLDER holds `upper`, which an image has been laid into, and `mounts`: lines of source|target|ro or rw.
set -euo pipefail
folder=$1
shift
root=$folder/root
mkdir -p "$root" "$folder/work" "$folder/upper" "$folder/tmp"
chmod 1777 "$folder/tmp"
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
while IFS='|' read -r source target mode; do
    # Resolved inside: /var/run is an absolute link, and would lead to the host's /run.
    target=$(chroot "$root" realpath -m "$target")
    if [ -d "$source" ]; then
        mkdir -p "$root$target"
    else
        mkdir -p "$root$(dirname "$target")"
        touch "$root$target"
    fi
    mount --bind "$source" "$root$target"
    if [ "$mode" = ro ]; then
        mount -o remount,bind,ro "$root$target"
    fi
done <"$folder/mounts"
hostname "$(cat "$root/etc/hostname")"
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
cd /
exec "$@"
