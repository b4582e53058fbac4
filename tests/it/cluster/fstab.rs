//! The system's own `mount` and a line of `fstab`, as an operator has them, for a cluster.
//!
//! Not here: the same for a store that is alone (`cli`).

use super::net::Net;
use super::place::Cluster;
use crate::support;
use std::path::Path;
use std::process::Command;

/// The program and its helpers as installed, in a namespace whose `/sbin` has nothing else: nothing is installed on this machine.
/// mount(8) gives helpers a `PATH` of its own.
const SCRIPT: &str = r#"
mount -t tmpfs none "$(readlink -f /sbin)"
install -m755 "$SCRIPTS/mount.tsfs" "$SCRIPTS/umount.fuse.tsfs" /sbin/
ln -s "$TSFS" /sbin/tsfs
echo "$SOURCE $MNT tsfs _netdev,nofail,cert=$CERT 0 0" >"$FSTAB"

mount -t tsfs "$SOURCE" "$MNT" -o "cert=$CERT"
echo first >"$MNT/first"
mkdir "$MNT/dir"
echo inner >"$MNT/dir/inner"
umount "$MNT"
! mountpoint -q "$MNT"

mount -T "$FSTAB" "$MNT"
cat "$MNT/first"
umount "$MNT"

mount -a -T "$FSTAB" -O _netdev
echo second >>"$MNT/first"
umount "$MNT"

mount -t tsfs "${SOURCE}dir" "$MNT" -o "ro,cert=$CERT"
cat "$MNT/inner"
! touch "$MNT/inner" 2>/dev/null
umount "$MNT"

code=0
mount -t tsfs "$SOURCE" "$MNT" -o "cert=$CERT.none" 2>"$FSTAB.said" || code=$?
echo "$code"
"#;

#[test]
fn the_systems_mount_and_a_line_of_fstab_mount_a_cluster() {
    let mut cluster = Cluster::one(Net::loopback());
    let dir = cluster.dir().to_owned();
    let (mnt, fstab) = (dir.join("by-fstab"), dir.join("fstab"));
    std::fs::create_dir(&mnt).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", SCRIPT]);
    command.env("SCRIPTS", Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts"));
    command.env("TSFS", env!("CARGO_BIN_EXE_tsfs"));
    command.env("SOURCE", cluster.source()).env("MNT", &mnt).env("CERT", cluster.cert());
    let output = support::run(command.env("FSTAB", &fstab));
    // 32 is what mount(8) calls a failed mount; what was wrong is said.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "first\ninner\n32\n");
    let said = std::fs::read_to_string(dir.join("fstab.said")).unwrap();
    assert!(said.contains("client.pem.none"), "{said}");
    let mount = cluster.mount();
    assert_eq!(std::fs::read_to_string(mount.join("first")).unwrap(), "first\nsecond\n");
    mount.close();
    cluster.close();
}
