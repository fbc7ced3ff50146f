#!/usr/bin/env bash
# Puts codiusd on a Debian or Ubuntu server, or brings it up to date. Safe to run again: what is as it should be isn't touched, and
# settings are never overwritten.
set -euo pipefail
umask 022

usage() {
  cat <<'TEXT'
Usage: install.sh [--binary FILE] [--sha256 HEX] [--dry-run]
       install.sh --uninstall [--stop-pods] [--dry-run]

  --binary FILE  the program; without it that beside this script's directory, or target/release/codiusd
  --sha256 HEX   what its SHA-256 must be; without it FILE.sha256 is believed, if there is one
  --dry-run      says what would be done, and does nothing
  --uninstall    removes all but settings and data (/etc/codius, /var/lib/codius)
  --stop-pods    stops pods before that, although their time is paid for; without it nothing is removed while there are some
TEXT
}

say() { printf 'install: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
binary='' sha256='' dry='' uninstall='' stop_pods=''
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --sha256)
      [ $# -ge 2 ] || { usage >&2; exit 64; }
      if [ "$1" = --binary ]; then binary=$2; else sha256=$2; fi
      shift
      ;;
    --dry-run) dry=yes ;;
    --uninstall) uninstall=yes ;;
    --stop-pods) stop_pods=yes ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
  esac
  shift
done

program=/usr/local/bin/codiusd
units=/etc/systemd/system
settings=/etc/codius/codiusd.toml
data=/var/lib/codius
drop_in=/run/systemd/system/codiusd.service.d/uninstall.conf

[ "$(uname -s)" = Linux ] || fail "codiusd runs on Linux only"
[ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "root is needed"

# Does something, or says that it would be done.
run() {
  if [ -n "$dry" ]; then say "would run: $*"; else "$@"; fi
}

has_systemd() { [ -d /run/systemd/system ]; }
is_active() { has_systemd && systemctl is-active --quiet codiusd.service; }

changed=''
# A file is put in place whole: who reads it, or runs it, has the one before or this one.
place() {
  local from=$1 to=$2 mode=$3
  if cmp -s "$from" "$to" && [ "$(stat -c %a "$to")" = "$mode" ]; then return; fi
  changed=yes
  run install -D -m "$mode" "$from" "$to.new"
  run mv -f "$to.new" "$to"
  say "$to"
}

directory() {
  [ -d "$1" ] || run install -d -m "$2" "$1"
}

find_binary() {
  local candidate
  for candidate in "$binary" "$here/../codiusd" "$here/../target/release/codiusd"; do
    if [ -n "$candidate" ] && [ -f "$candidate" ]; then
      binary=$candidate
      break
    fi
    [ -z "$binary" ] || fail "$binary isn't there"
  done
  [ -n "$binary" ] || fail "there is no program to install: cargo build --release, or --binary FILE"
  if [ -z "$sha256" ] && [ -f "$binary.sha256" ]; then sha256=$(cut -d ' ' -f 1 "$binary.sha256"); fi
  if [ -n "$sha256" ]; then
    echo "$sha256  $binary" | sha256sum --check --status || fail "$binary isn't what its checksum says: $sha256"
  fi
  "$binary" --version >/dev/null || fail "$binary doesn't run on this machine ($(uname -m))"
}

packages() {
  local missing=()
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)              # pods' disks
  [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates) # registries, and connectors over TLS
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "please install: ${missing[*]} (named as in Debian; this machine has no apt)"
  say "installing ${missing[*]}"
  run apt-get update -qq
  run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# The new program must understand the settings there are, or it would take the host's place and not start.
check_settings() {
  [ -e "$settings" ] || return 0
  local problem
  if ! problem=$("$binary" check --config "$settings" 2>&1 >/dev/null); then
    if is_active; then fail "nothing was changed: $problem"; fi
    say "not to be started yet: $problem"
  fi
}

install_all() {
  find_binary
  packages
  check_settings
  place "$binary" "$program" 755
  place "$here/codiusd.service" "$units/codiusd.service" 644
  place "$here/codiusd.socket" "$units/codiusd.socket" 644
  directory /etc/codius 755
  # Pods' unprivileged users pass through.
  directory "$data" 711
  if [ ! -e "$settings" ]; then
    # It comes to hold a secret.
    run install -m 600 "$here/codiusd.toml" "$settings"
    say "$settings"
  fi
  if has_systemd; then
    [ -z "$changed" ] || run systemctl daemon-reload
    run systemctl enable --quiet codiusd.service
    if is_active && [ -n "$changed" ]; then
      say "codiusd is started anew; pods run on"
      run systemctl restart codiusd.service
    fi
  else
    say "there is no systemd here: start $program serve by other means"
  fi
  [ -n "$changed" ] || say "all was there already"
  if ! is_active; then
    say "next: edit $settings, then codiusd check, then systemctl start codiusd"
  fi
}

# Each has a supervisor, whatever the settings say now.
pods_are_there() { grep -qsa 'pod-shi[m]' /proc/[0-9]*/cmdline; }

# The pods' network policy; of a host that was never set up there is none, and nothing to know.
remove_policy() {
  "$program" network show >/dev/null 2>&1 || return 0
  "$program" network remove >/dev/null || fail "nothing was removed"
}

stop_all_pods() {
  has_systemd || fail "without systemd: let codiusd end once with CODIUS_STOP_PODS_AT_EXIT=true, then try again"
  run mkdir -p "${drop_in%/*}"
  [ -n "$dry" ] || printf '[Service]\nEnvironment=CODIUS_STOP_PODS_AT_EXIT=true\n' >"$drop_in"
  run systemctl daemon-reload
  # Or a visitor would have it started again.
  run systemctl stop codiusd.socket
  # It takes over what runs, and then stops it.
  run systemctl restart codiusd.service
  run systemctl stop codiusd.service
}

uninstall_all() {
  if [ -z "$dry" ] && pods_are_there; then
    [ -n "$stop_pods" ] || fail "there are pods: wait until their time is over, or --uninstall --stop-pods"
    stop_all_pods
  fi
  local unit
  for unit in codiusd.socket codiusd.service; do
    [ -e "$units/$unit" ] || continue
    # A unit that isn't enabled, or a machine that doesn't run systemd, is no failure.
    if command -v systemctl >/dev/null; then run systemctl disable --quiet "$unit" || true; fi
    if has_systemd; then run systemctl stop "$unit"; fi
  done
  if [ -x "$program" ] && [ -z "$dry" ]; then remove_policy; fi
  run rm -f "$units/codiusd.service" "$units/codiusd.socket" "$program" "$drop_in"
  if [ -d "${drop_in%/*}" ]; then run rmdir --ignore-fail-on-non-empty "${drop_in%/*}"; fi
  if cmp -s "$here/codiusd.toml" "$settings"; then run rm -f "$settings"; fi
  local left
  for left in /etc/codius "$data"; do
    # With something in it, or a file system of its own, it stays.
    if [ -d "$left" ]; then run rmdir --ignore-fail-on-non-empty "$left" 2>/dev/null || true; fi
  done
  if has_systemd; then run systemctl daemon-reload; fi
  for left in "$settings" "$data"; do
    [ ! -e "$left" ] || say "$left is left: settings and data are yours to remove"
  done
}

if [ -n "$uninstall" ]; then uninstall_all; else install_all; fi
