# Unpacks the packages that everything else needs into the current directory, an empty root. Arguments: the directory
# of the package files, and their names.
set -e
from=$1
shift
umask 022
# One directory for programs and one for libraries, as the distributions have had it since 2022 (2020).
for dir in bin sbin lib; do
    mkdir -p "usr/$dir"
    ln -s "usr/$dir" "$dir"
done
case $(uname -m) in
    x86_64) mkdir -p usr/lib64 && ln -s usr/lib64 lib64 ;;
esac
mkdir -p etc/dpkg/dpkg.cfg.d
cp "$from/dpkg.cfg" etc/dpkg/dpkg.cfg.d/recipe
chmod 0644 etc/dpkg/dpkg.cfg.d/recipe
for name; do
    dpkg-deb --fsys-tarfile "$from/$name" |
        tar --extract --preserve-permissions --numeric-owner --keep-directory-symlink --exclude-from="$from/excluded" --file=-
done
mkdir -p var/lib/dpkg/info var/lib/dpkg/updates
touch var/lib/dpkg/status var/lib/dpkg/available
