#!/usr/bin/env bash
# Installs the barn gateway on a Raspberry Pi (64-bit Raspberry Pi OS, Debian 12 or 13).
# Run it again to update: what is already right is left alone. A configuration that is there
# is never overwritten; the new one is laid beside it as gateway.yaml.new.
set -euo pipefail
umask 022 # the service's account must be able to read the program, whatever root's umask is

readonly NAME=barn-gateway
SOURCE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly SOURCE
readonly PYTHON="${PYTHON:-python3}"
readonly FONT=/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf # of the charts in e-mails

DRY=false
UNINSTALL=false
PURGE=false
BUILD_VENV=true
ROOT=""
LISTEN=""
ANONYMOUS=false
CHANGED=false

usage() {
    cat <<'TEXT'
usage: sudo ./install.sh [options]

  --dry-run            print each step and change nothing (needs no root)
  --uninstall          stop and remove the program; configuration and data stay
  --purge              with --uninstall: remove configuration, data, logs and the account too
  --listen ADDRESS     let sensors connect unencrypted too, with their passwords, at this
                       address of the Pi (0.0.0.0 for all), port 1883
  --allow-anonymous    with --listen: everyone who reaches that address may publish, without
                       a password: use it only on a network of your own
  --root DIR           install below DIR, and leave accounts, packages and services alone
  --no-venv            leave out the Python environment
  --help

Sensors connect with TLS on port 8883, each with the password of `barn-gateway device add`,
and trust /etc/barn-gateway/certificates/ca.crt, which is made here. Without --listen port 1883
and the pages answer on 127.0.0.1 only. A configuration that is there is kept as it is.
TEXT
}

say() { printf '%s\n' "$*"; }
die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

run() { # every change to the machine goes through here or through put
    if $DRY; then
        say "would run: $*"
    else
        "$@"
    fi
}

put() { # MODE FILE: standard input becomes the file, in one step, only if it differs
    local mode="$1" file="$2" new
    new="$(cat)"
    if cmp -s "$file" - <<<"$new"; then
        say "unchanged: $file"
        return
    fi
    if $DRY; then
        say "would write: $file"
        return
    fi
    (umask 077 && printf '%s\n' "$new" >"$file.tmp")
    chmod "$mode" "$file.tmp"
    mv -f "$file.tmp" "$file"
    CHANGED=true
    say "wrote: $file"
}

skipped_below_root() { # WHAT: true when --root says to leave it alone
    [ -n "$ROOT" ] || return 1
    say "skipped below --root: $1"
}

parse() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --dry-run) DRY=true ;;
            --uninstall) UNINSTALL=true ;;
            --purge) PURGE=true ;;
            --no-venv) BUILD_VENV=false ;;
            --allow-anonymous) ANONYMOUS=true ;;
            --listen | --root)
                [ $# -ge 2 ] || die "$1 needs a value; see --help"
                if [ "$1" = --listen ]; then LISTEN="$2"; else ROOT="$2"; fi
                shift
                ;;
            --help | -h)
                usage
                exit 0
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
        shift
    done
    if $PURGE && ! $UNINSTALL; then die "--purge goes with --uninstall"; fi
    if [ -n "$ROOT" ]; then
        [ -d "$ROOT" ] || die "--root $ROOT: no such directory"
        ROOT="$(cd "$ROOT" && pwd)"
        [ "$ROOT" != / ] || ROOT=""
    fi
    if [ -n "$LISTEN" ]; then
        [[ "$LISTEN" =~ ^[0-9a-fA-F.:]+$ ]] || die "--listen $LISTEN: write an IP address of this machine"
    elif $ANONYMOUS; then
        die "--allow-anonymous goes with --listen ADDRESS"
    fi
}

refuse() { # a dry run tells what would stop it, and goes on
    if $DRY; then say "would stop: $*"; else die "$*"; fi
}

check_machine() {
    local release="${ROOT}/etc/os-release" id version bits
    [ -f "$release" ] || release=/etc/os-release
    id="$(sed -n 's/^ID=//p' "$release" 2>/dev/null | tr -d '"')" || id=""
    version="$(sed -n 's/^VERSION_ID=//p' "$release" 2>/dev/null | tr -d '"')" || version=""
    # 64-bit Raspberry Pi OS calls itself debian; raspbian is the 32-bit one.
    bits="$(getconf LONG_BIT 2>/dev/null || echo unknown)"
    if [ "$id" = raspbian ] || [ "$bits" != 64 ]; then
        refuse "this is a 32-bit system; install the 64-bit Raspberry Pi OS"
    fi
    case "$id $version" in
        "debian 12" | "debian 13") say "system: $id $version, 64 bit" ;;
        *) refuse "this is ${id:-an unknown system} $version; it needs Debian 12, 13 or 64-bit Raspberry Pi OS" ;;
    esac
    if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "python: $("$PYTHON" -c 'import platform; print(platform.python_version())')"
    else
        refuse "$PYTHON is missing or older than 3.11; name a newer one: PYTHON=/path/to/python3 ./install.sh"
    fi
    if ! $DRY && [ -z "$ROOT" ] && [ "$(id -u)" -ne 0 ]; then
        die "run it with sudo, or look first with --dry-run"
    fi
}

install_packages() {
    if ! $BUILD_VENV; then return; fi
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        install_package python3-venv
    fi
    if [ ! -f "$FONT" ] && ! install_package fonts-dejavu-core; then
        say "note: without fonts-dejavu-core the charts in e-mails have no words and numbers"
    fi
}

install_package() { # NAME
    if skipped_below_root "$1"; then return; fi
    run apt-get update -qq && run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$1"
}

make_account() {
    if skipped_below_root "account $NAME"; then return; fi
    # A system without pins has no group gpio, and the unit would not start without it.
    getent group gpio >/dev/null || run groupadd --system gpio
    if getent passwd "$NAME" >/dev/null; then
        say "unchanged: account $NAME"
    else
        run useradd --system --user-group --home-dir "/var/lib/$NAME" --no-create-home \
            --shell /usr/sbin/nologin "$NAME"
    fi
}

release_id() { # what is installed, in 12 characters: sources, lock, interpreter
    (
        cd "$SOURCE"
        find gateway sensor_sim requirements.lock pyproject.toml -type f ! -name '*.pyc' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
        "$PYTHON" -VV 2>/dev/null || true
    ) | sha256sum | cut -c1-12
}

build_release() {
    local base="$ROOT/opt/$NAME" id dir
    id="$(release_id)"
    dir="$base/releases/$id"
    if ! $BUILD_VENV; then
        say "left out: the Python environment"
        return
    fi
    if [ -f "$dir/.complete" ]; then
        say "unchanged: $dir"
    else
        say "building $dir from requirements.lock (some minutes on a Pi)"
        run rm -rf "$dir"
        run mkdir -p "$base/releases"
        run "$PYTHON" -m venv "$dir"
        run "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
            --require-hashes -r "$SOURCE/requirements.lock"
        run "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-deps --no-build-isolation "$SOURCE"
        run touch "$dir/.complete"
        run sync # the link below must not reach the card before what it points to
    fi
    check_config "$dir"
    if [ "$(readlink "$base/current" 2>/dev/null)" = "releases/$id" ]; then
        say "unchanged: $base/current"
    else
        local before
        before="$(readlink "$base/current" 2>/dev/null || true)"
        run ln -sfn "releases/$id" "$base/current.new"
        run mv -fT "$base/current.new" "$base/current"
        CHANGED=true
        remove_old_releases "$base" "$id" "${before#releases/}"
    fi
    link_commands
}

make_certificates() { # the authority and the server's certificate; what is there and good stays
    local folder="$ROOT/etc/$NAME/certificates" program="$ROOT/opt/$NAME/current/bin/$NAME" before
    local names=()
    if ! $BUILD_VENV; then
        say "left out: the certificates, which the program makes"
        return
    fi
    case "$LISTEN" in
        "" | 0.0.0.0 | ::) ;;
        *) names=(--name "$LISTEN") ;;
    esac
    before="$(cat "$folder/server.crt" 2>/dev/null || true)"
    if ! run "$program" certificates --folder "$folder" "${names[@]}"; then
        say "note: the certificates in $folder were left as they are (see above)"
        return
    fi
    # The service reads its own key; the authority's stays root's alone.
    if [ -z "$ROOT" ]; then run chown "root:$NAME" "$folder/server.key"; fi
    run chmod 0640 "$folder/server.key"
    if ! $DRY && [ "$before" != "$(cat "$folder/server.crt")" ]; then CHANGED=true; fi
}

link_commands() { # barn-gateway and barn-sim for whoever sits at the Pi
    local command link
    run mkdir -p "$ROOT/usr/local/bin"
    for command in barn-gateway barn-sim; do
        link="$ROOT/usr/local/bin/$command"
        if [ "$(readlink "$link" 2>/dev/null)" = "/opt/$NAME/current/bin/$command" ]; then
            say "unchanged: $link"
        else
            run ln -sfn "/opt/$NAME/current/bin/$command" "$link"
        fi
    done
}

check_config() { # a configuration that would not start keeps the old release running
    local config="$ROOT/etc/$NAME/gateway.yaml" secrets="$ROOT/etc/$NAME/environment" line
    local variables=(LC_ALL=C.UTF-8)
    if [ -r "$secrets" ]; then # the unit's EnvironmentFile
        while IFS= read -r line; do
            if [[ "$line" =~ ^([A-Za-z_][A-Za-z0-9_]*)=[\"\']?(.*[^\"\'])[\"\']?$ ]]; then
                variables+=("${BASH_REMATCH[1]}=${BASH_REMATCH[2]}")
            fi
        done <"$secrets"
    fi
    if $DRY; then
        say "would run: $1/bin/$NAME check $config"
        return
    fi
    env "${variables[@]}" "$1/bin/$NAME" check "$config" ||
        die "the configuration has faults (above); correct $config and run this again." \
            "What was running still runs."
}

remove_old_releases() { # BASE NEW PREVIOUS: the previous one stays, for a way back
    local dir
    for dir in "$1"/releases/*; do
        case "${dir##*/}" in
            "$2" | "$3" | '*') ;;
            *) run rm -rf "$dir" ;;
        esac
    done
}

render_config() { # config/gateway.yaml with a Pi's paths, its TLS listener and a closed door
    local text line
    text="$(sed \
        -e 's#^\(  open_topics: \)\["\#"\]#\1[]#' \
        -e "s#^\(  path: \)data/#\1/var/lib/$NAME/data/#" \
        -e "s#^\(  devices: \)data/#\1/var/lib/$NAME/data/#" \
        -e "s#^\(  farm_register: \)data/#\1/var/lib/$NAME/data/#" \
        -e "s#^\(  directory: \)backups#\1/var/lib/$NAME/backups#" \
        -e "s#^\(  log_file: \)logs/#\1/var/log/$NAME/#" \
        -e '/^  tls:/,/^  websocket:/s#^\(    enabled: \)false#\1true#' \
        -e '/^  tls:/,/^  websocket:/s#^\(    host: \)null#\1"0.0.0.0"#' \
        -e "s#^\(    certificate: \)certificates/#\1/etc/$NAME/certificates/#" \
        -e "s#^\(    key: \)certificates/#\1/etc/$NAME/certificates/#" \
        "$SOURCE/config/gateway.yaml")"
    if [ -n "$LISTEN" ]; then
        text="$(sed -e "/^broker:/,/^database:/s#^\(  host: \)127.0.0.1#\1\"$LISTEN\"#" <<<"$text")"
    fi
    if $ANONYMOUS; then
        text="$(sed -e '/^broker:/,/^database:/s#^\(  allow_anonymous: \)false#\1true#' <<<"$text")"
    fi
    for line in "  open_topics: []" "  path: /var/lib/$NAME" "  farm_register: /var/lib/$NAME" \
        "  devices: /var/lib/$NAME" \
        "  directory: /var/lib/$NAME" \
        "    enabled: true" "    host: \"0.0.0.0\"" "    certificate: /etc/$NAME" "    key: /etc/$NAME" \
        "  log_file: /var/log/$NAME" "  host: ${LISTEN:+\"$LISTEN\"}" "  allow_anonymous: $ANONYMOUS"; do
        grep -qF -- "$line" <<<"$text" || die "config/gateway.yaml has changed; install.sh cannot set \"$line\""
    done
    printf '%s\n' "$text"
}

write_config() {
    local dir="$ROOT/etc/$NAME" rendered
    rendered="$(render_config)"
    [ -d "$dir" ] || run install -d -m 0750 "$dir"
    if [ ! -f "$dir/gateway.yaml" ]; then
        put 0640 "$dir/gateway.yaml" <<<"$rendered"
    elif cmp -s "$dir/gateway.yaml" - <<<"$rendered"; then
        say "unchanged: $dir/gateway.yaml"
    else
        say "kept: $dir/gateway.yaml is yours; this version's own is beside it"
        put 0640 "$dir/gateway.yaml.new" <<<"$rendered"
    fi
    if [ -z "$ROOT" ]; then run chown -R "root:$NAME" "$dir"; fi
}

write_unit() {
    local dir="$ROOT/etc/systemd/system"
    [ -d "$dir" ] || run install -d "$dir"
    put 0644 "$dir/$NAME.service" <"$SOURCE/systemd/$NAME.service"
}

start() {
    if skipped_below_root "service $NAME"; then return; fi
    if systemctl is-active --quiet mosquitto 2>/dev/null; then
        say "note: mosquitto holds port 1883 on this machine; the gateway has its own broker."
        say "      sudo systemctl disable --now mosquitto"
    fi
    run systemctl daemon-reload
    run systemctl enable --quiet "$NAME"
    if $CHANGED; then run systemctl restart "$NAME"; else run systemctl start "$NAME"; fi
}

install_all() {
    check_machine
    install_packages
    make_account
    write_config
    build_release
    make_certificates
    write_unit
    start
    if [ -n "$LISTEN" ] && $ANONYMOUS; then
        say "warning: everyone who reaches $LISTEN:1883 may publish, without a password."
    elif [ -n "$LISTEN" ] && [ "$LISTEN" != 127.0.0.1 ] && [ "$LISTEN" != ::1 ]; then
        say "note: at $LISTEN:1883 readings and passwords travel unencrypted; port 8883 has TLS."
    fi
    if $DRY; then
        say "nothing was changed"
    elif ! $CHANGED; then
        say "nothing to do: everything is as it should be"
    else
        say "done. Look: systemctl status $NAME; curl http://127.0.0.1:8080/health"
        say "A sensor's id and password: sudo $NAME device add COW_001"
    fi
}

uninstall_all() {
    if ! $DRY && [ -z "$ROOT" ] && [ "$(id -u)" -ne 0 ]; then die "run it with sudo"; fi
    if ! skipped_below_root "service $NAME" && [ -f "/etc/systemd/system/$NAME.service" ]; then
        run systemctl disable --quiet --now "$NAME"
    fi
    run rm -f "$ROOT/etc/systemd/system/$NAME.service"
    if [ -z "$ROOT" ]; then run systemctl daemon-reload; fi
    run rm -f "$ROOT/usr/local/bin/barn-gateway" "$ROOT/usr/local/bin/barn-sim"
    run rm -rf "$ROOT/opt/$NAME"
    if $PURGE; then
        run rm -rf "$ROOT/etc/$NAME" "$ROOT/var/lib/$NAME" "$ROOT/var/log/$NAME"
        if ! skipped_below_root "account $NAME" && getent passwd "$NAME" >/dev/null; then
            run userdel "$NAME"
        fi
        say "removed, with configuration and data"
    else
        say "removed; $ROOT/etc/$NAME, $ROOT/var/lib/$NAME and $ROOT/var/log/$NAME stay (--purge removes them)"
    fi
}

parse "$@"
if $UNINSTALL; then uninstall_all; else install_all; fi
