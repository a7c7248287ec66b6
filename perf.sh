K=$1; export XDG_CACHE_HOME=/tmp/x/cache
for side in b n; do
 D=$(mktemp -d /tmp/rk/lab.XXXX); eval "D$side=$D"
 [ $side = b ] && P=/tmp/rk/bbin || P=/tmp/x/bin
 (cd $D; PATH=$P:$PATH; dumm-fs init --kernel $K --master busybox; dumm-guest create a; dumm-guest start a)
done
for r in 1 2 3 4; do for side in b n; do
 eval "D=\$D$side"; [ $side = b ] && P=/tmp/rk/bbin || P=/tmp/x/bin
 (cd $D; PATH=$P:$PATH; echo -n "$K $side: "; dumm-guest exec a -- sh -c 'a=$(cut -d" " -f1 /proc/uptime); i=0; while [ $i -lt 300 ]; do /bin/busybox true; i=$((i+1)); done; b=$(cut -d" " -f1 /proc/uptime); dd if=/dev/zero of=/dev/null bs=1 count=40000 2>/dev/null; c=$(cut -d" " -f1 /proc/uptime); dd if=/bin/busybox of=/tmp/f bs=1k 2>/dev/null; for j in 1 2 3 4 5 6 7 8 9 10; do find / -xdev >/dev/null 2>&1; done; d=$(cut -d" " -f1 /proc/uptime); echo "fork300 $a $b sys80k $c files $d"' | awk '{printf "fork+exec %.2f ms  syscall %.2f us  files %.2f s\n",($3-$2)/300*1000,($5-$3)/80000*1e6,$7-$5}')
done; done
for side in b n; do eval "D=\$D$side"; [ $side = b ] && P=/tmp/rk/bbin || P=/tmp/x/bin
 (cd $D; PATH=$P:$PATH; for i in 1 2 3 4 5 6 7; do dumm-guest stop a --kill; S=$(date +%s%N); dumm-guest start a;  E=$(date +%s%N); echo -n "$(( (E-S)/100000 )) "; done; echo "start x0.1ms $side"; P=$(cut -d' ' -f1 run/a/pid); for p in $P $(ps -o ppid= $P); do [ $p -gt 2 ] && grep -E '^(Pss|Private_Dirty):' /proc/$p/smaps_rollup | tr '\n' ' '; done; dumm-guest stop a --kill; dumm-fs destroy); rm -rf $D; done
