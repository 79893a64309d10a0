"""Files that are written whole or not at all, and their digests, for scripts beside the package."""

from segcam_jax._files import (
    check_folder as check_folder,
    check_writable as check_writable,
    digest_of as digest_of,
    parse_json as parse_json,
    read_bytes as read_bytes,
    read_json as read_json,
    remove_temporary as remove_temporary,
    sha256_of as sha256_of,
    whole_file as whole_file,
    write_array as write_array,
    write_bytes as write_bytes,
    write_json as write_json,
)
