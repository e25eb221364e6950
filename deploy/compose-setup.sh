#!/usr/bin/env bash
# What the servers of compose.yaml need before they start: certificates and data directories.
#
#   RAFTMAP_IDS="1 2 3" bash compose-setup.sh DIR
#
# DIR has the folders authority, clients and server-1 to server-3, each a volume; RAFTMAP_IDS are the ids of the three servers. What is done
# is not done again, with one thing to know: a server whose volume is lost gets no new data directory under its id. What it promised is
# gone with the old one; and if two of three came back empty they would found a cluster of their own, without what the third one holds.
set -euo pipefail

dir=$1
read -r -a ids <<<"$RAFTMAP_IDS"
cluster=shop
owner=10001:10001 # whom the image runs as
authority=$dir/authority clients=$dir/clients

# make NAME OPTION...: the certificate of NAME, if there is none.
make() {
  [ -e "$authority/$1.pem" ] || raftmap certs --cluster "$cluster" --out "$authority" "${@:2}"
}

# copy DIR NAME: the pair of NAME, and the authority's certificate.
copy() {
  mkdir -p "$1"
  cp "$authority/ca.pem" "$authority/$2.pem" "$authority/$2.key" "$1"
}

# member PLACE ID: the other servers reach it by the name of its service, clients on this machine by its own port.
member() { echo "$2=server-$1:7001,127.0.0.1:7${1}00"; }

founders=()
for place in 1 2 3; do founders+=(--member "$(member "$place" "$place")"); done

# found_or_join PLACE ID: the data directory of a server that never had one.
found_or_join() {
  local data=$dir/server-$1/node
  if [ "$2" -le 3 ]; then
    raftmap init --cluster "$cluster" --data "$data" --id "$2" "${founders[@]}"
  else
    raftmap init --join server-1:7100,server-2:7200,server-3:7300 --certs "$dir/server-$1/certs" \
      --cluster "$cluster" --data "$data" --id "$2" --member "$(member "$1" "$2")"
  fi
}

make app --client app
make admin --operator admin
copy "$clients" app
copy "$clients" admin
for place in 1 2 3; do
  id=${ids[place - 1]} server=$dir/server-$place
  make "node-$id" --server "$id=server-$place,127.0.0.1"
  copy "$server/certs" "node-$id"
  if [ -e "$server/node/identity" ]; then
    touch "$authority/began-$id"
  elif [ -e "$authority/began-$id" ]; then
    echo "server $id had a data directory, and its volume is empty: it does not start (deploy/README.md, \"A lost volume\")" >&2
  else
    found_or_join "$place" "$id"
    touch "$authority/began-$id"
  fi
done
chown -R "$owner" "$clients" "$dir"/server-{1,2,3}
