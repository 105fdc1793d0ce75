# Functions that the scripts of the benches share. To source by a run.sh.
# shellcheck shell=bash disable=SC2034

# Prints the comment at the top of the script.
usage() {
    sed -n '2,/^set /p' "$0" | grep '^#' >&2
    exit 2
}

# parse_options NAMES [OPTION VALUE]...: sets the variable x_y to the value of --x-y. NAMES lists
# the variables that may be set.
parse_options() {
    local names=" $1 " name
    shift
    while [ $# -gt 0 ]; do
        name=${1#--}
        name=${name//-/_}
        if [[ $1 != --* || $names != *" $name "* || $# -lt 2 ]]; then
            usage
        fi
        printf -v "$name" %s "$2"
        shift 2
    done
}

# Changes to the root of the project. Sets $target and the temporary directory $work, which the
# script removes.
enter_project() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    work=$(mktemp -d)
}

has_client() {
    [[ " $clients " == *" $1 "* ]]
}

# leave_out CLIENT REASON: removes it from $clients.
leave_out() {
    echo "run.sh: $1 is left out: $2" >&2
    local remaining=""
    for client in $clients; do
        [ "$client" = "$1" ] || remaining="$remaining $client"
    done
    clients=$remaining
}

# build_librdkafka SOURCE: builds $work/librdkafka, or removes the client. The library comes from
# pkg-config, or from Python's package confluent-kafka.
build_librdkafka() {
    compile_librdkafka "$1" || leave_out librdkafka "it needs cc, and librdkafka-dev or pip"
}

compile_librdkafka() {
    command -v cc > /dev/null || return 1
    if pkg-config --exists rdkafka 2> /dev/null; then
        # shellcheck disable=SC2046
        cc -O2 -pthread -o "$work/librdkafka" "$1" $(pkg-config --cflags --libs rdkafka)
        return
    fi
    local packages="$target/python/bench" library
    if [ ! -d "$packages" ]; then
        python3 -m pip install -q --disable-pip-version-check --target "$packages.new" \
            confluent-kafka==2.16.1 || return 1
        mv "$packages.new" "$packages"
    fi
    library=$(find -L "$packages" -name 'librdkafka*.so*' | head -1)
    [ -n "$library" ] || return 1
    cc -O2 -pthread -o "$work/librdkafka" "$1" "$library" "-Wl,-rpath,$(dirname "$library")"
}

# build_franz_go DIRECTORY: builds $work/franz-go, or removes the client.
build_franz_go() {
    (cd "$1" && go build -o "$work/franz-go" .) || leave_out franz-go "it needs Go"
}

# Sets $jars to the newest of Kafka's jars, and $java to the command that needs a class. Fails if
# there are no jars.
find_jars() {
    jars=$(find -L "$target/kafka" -maxdepth 1 -name 'libs-4.*' -type d 2> /dev/null |
        sort -V | tail -1)
    java=(java -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$work:$jars/*")
    [ -n "$jars" ]
}

# build_java SOURCE: builds the class in $work, or removes the client.
build_java() {
    if ! find_jars || ! javac -cp "$jars/*" -d "$work" "$1"; then
        leave_out java "it needs a JDK 17 and $target/kafka/libs-4.*: run cargo xtask kafka once"
    fi
}
