# Prepares the data; both tcsh and bash read this file:   source setup.csh <python> <datasets dir>
# It stays with what the two shells share: commands, quotes, && and ||. The shell that reads it lives on,
# with the status of the last command.
( test -f main.py || sh -c 'echo "error: there is no main.py here; source setup.csh from the project folder" >&2; exit 2' ) && ( test -n "$2" || sh -c 'echo "error: two words are missing; say: source setup.csh <python> <datasets dir>" >&2; exit 2' ) && "$1" main.py --utility filter_unwanted_coco_images --datasets_dir "$2"
