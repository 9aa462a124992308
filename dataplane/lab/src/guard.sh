# Removes a lab: the processes inside its namespaces, the namespaces, its directory.
#
#   watch PREFIX DIR    waits until standard input closes (whoever held it is done or dead), then removes;
#                       the word "keep" on standard input leaves everything up
#   remove PREFIX DIR   removes now
#
# PREFIX ends with a dash, so that no lab is the beginning of another one's name.
set -u
mode=$1 prefix=$2 dir=$3

namespaces() { ip netns list | cut -d' ' -f1 | grep "^$prefix" || true; }

if [ "$mode" = watch ]; then
    trap '' INT TERM HUP
    word=
    read -r word || true
    [ "$word" = keep ] && exit 0
fi

# Twice: a program may have forked between the look and the signal.
for round in 1 2; do
    for ns in $(namespaces); do
        for pid in $(ip netns pids "$ns"); do kill -KILL "$pid" 2>/dev/null || true; done
    done
done
for ns in $(namespaces); do ip netns del "$ns"; done
rm -rf -- "$dir"
