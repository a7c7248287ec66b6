#!/bin/sh
# user-world.sh COMMAND...: as root, run COMMAND in a mount namespace in which this host has one more
# ordinary user. No other process sees the changes, which end with the command.
#
# Environment variables: USER_NAME, USER_ID, USER_HOME; FIRST_ID, the first of 65536 subordinate ids
# (empty: no ids); TUN, the mode of /dev/net/tun (empty: no such device); FUSE, the mode of /dev/fuse
# if it exists (empty: 666, as set by udev); WITHOUT, programs to hide; PACKS, a directory whose
# entries are mounted in the directory CACHE; OPEN, directories that the user must be able to reach;
# STAGE, an empty directory.
set -eu

# A directory that others may not enter, such as root's home, is covered by an open one, in which
# those of OPEN are mounted again.
number=0
closed=
for path in $OPEN; do
	part=
	rest=${path#/}
	while [ -n "$rest" ] && [ -z "$(find "$part/" -maxdepth 0 ! -perm -001)" ]; do
		part=$part/${rest%%/*}
		case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
	done
	[ "$part" != "$path" ] || continue
	closed="$closed $part"
	number=$((number + 1))
	mkdir "$STAGE/$number"
	mount --rbind "$path" "$STAGE/$number"
	echo "$path" >>"$STAGE/paths"
done
for directory in $closed; do
	mountpoint -q "$directory" || mount -t tmpfs -o mode=755,size=1M none "$directory"
done
number=0
[ -z "$closed" ] || while read -r path; do
	number=$((number + 1))
	mkdir -p "$path"
	mount --move "$STAGE/$number" "$path"
done <"$STAGE/paths"

instead() {
	[ -e "$1" ] || : >"$1"
	mount --bind "$2" "$1"
}
for file in passwd group; do
	cat "/etc/$file" >"$STAGE/$file"
done
echo "$USER_NAME:x:$USER_ID:$USER_ID::$USER_HOME:/bin/sh" >>"$STAGE/passwd"
echo "$USER_NAME:x:$USER_ID:" >>"$STAGE/group"
for file in subuid subgid; do
	echo "${FIRST_ID:+$USER_NAME:$FIRST_ID:65536}" >"$STAGE/$file"
done
for file in passwd group subuid subgid; do
	instead "/etc/$file" "$STAGE/$file"
done
mount -t tmpfs -o mode=755,size=1M none /dev/net
[ -z "$TUN" ] || mknod -m "$TUN" /dev/net/tun c 10 200
if [ -e /dev/fuse ]; then # without udev, only root may open it
	mknod -m "${FUSE:-666}" /dev/net/fuse c 10 229
	mount --bind /dev/net/fuse /dev/fuse
	rm /dev/net/fuse
fi
for program in $WITHOUT; do
	instead "$program" /dev/null
done
for pack in ${PACKS:+"$PACKS"/*}; do
	mkdir "$CACHE/${pack##*/}"
	mount --bind "$pack" "$CACHE/${pack##*/}"
done
exec "$@"
