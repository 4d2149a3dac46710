# Sourced by the scripts of this folder.
#
# example NAME: builds one of our examples as the rest of the workspace is built, and prints its path; with
# METASTABLE_EXAMPLES=FOLDER it takes what is there and builds nothing.
example() {
    local folder=${METASTABLE_EXAMPLES:-}
    if [ -z "$folder" ]; then
        cargo build --release --quiet --workspace --example "$1" >&2
        folder=${CARGO_TARGET_DIR:-target}/release/examples
    fi
    [ -x "$folder/$1" ] || { echo "$folder/$1: expected the example $1, found no program" >&2; return 1; }
    echo "$folder/$1"
}
