//! Bases made from the host's own apt sources, and system packages on top: the same bytes whoever makes them.
//!
//! Needs a host of Debian's family with network to its archive, as the tests do anyway.

use std::time::Duration;

use agent::report::Silent;
use agent::sandbox::{LayerBlob, Sandbox, Step, Temporary};
use agent::store::Store;
use agent::system::apt::Apt;
use agent::system::{SystemError, fetch, install, recipe};

use crate::sandbox::{answer, as_user};

const DAY: Duration = Duration::from_secs(86_400);

/// The store all tests here share: the archive is asked for each file once.
fn store(context: &crate::support::TestContext) -> Store {
    Store::open(context.store()).unwrap()
}

fn base(store: &Store) -> LayerBlob {
    let resolved = recipe::resolve(store, "debian-python", DAY, &Silent).unwrap();
    let base = recipe::build(store, &resolved, &Silent).unwrap();
    LayerBlob { diff_id: base.layer.diff_id, blob: base.layer.descriptor.digest }
}

/// Makes the base and a layer of packages on it, and tells both digests.
fn digests(store: &Store) -> String {
    let base = base(store);
    let sandbox = Sandbox::open(store, &[base], &Silent).unwrap();
    let apt = Apt::open(store, &sandbox, &Silent).unwrap();
    apt.update(DAY).unwrap();
    // A library, a program that makes a user, and one that compiles Python when it is installed.
    let names = ["libgomp1", "openssh-client", "python3-six"].map(str::to_owned);
    let packages = apt.solve(&names).unwrap();
    fetch::fetch(store, &packages, apt.sources(), &Silent).unwrap();
    install::install(store, &sandbox, &packages, &Silent).unwrap();
    let layer = sandbox.layer(Temporary::LeftOut).unwrap();
    format!("{} {}", base.blob, layer.descriptor.digest)
}

#[test]
fn a_recipe_base_has_python_and_certificates_and_no_trace_of_this_machine() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let base = base(&store);
    let sandbox = Sandbox::open(&store, &[base], &Silent).unwrap();
    let program = "import ssl, ctypes, contextvars, zoneinfo; print(ssl.create_default_context().cert_store_stats()['x509'] > 50)";
    let output = sandbox.run(&Step::new("python3", &["python3", "-c", program]), &Silent).unwrap();
    assert_eq!((output.code, output.text().trim()), (0, "True"), "{}", output.last_words());
    // What apt's own package has in its directory of lists is an empty directory.
    let script = "dpkg --audit; ls /etc/apt/sources.list.d /var/lib/apt/lists | grep -v -e : -e partial; \
                  find /var/log /var/cache /etc/resolv.conf /etc/hostname /etc/machine-id -type f; \
                  find /etc /usr /var /root -type d -newermt 1981-01-01";
    let output = sandbox.run(&Step::new("sh", &["/bin/sh", "-c", script]), &Silent).unwrap();
    assert_eq!(output.text(), "");
}

#[test]
fn a_name_no_package_has_is_told_and_no_pattern() {
    let context = crate::support::TestContext::warm();
    let store = store(&context);
    let sandbox = Sandbox::open(&store, &[base(&store)], &Silent).unwrap();
    let apt = Apt::open(&store, &sandbox, &Silent).unwrap();
    apt.update(DAY).unwrap();
    let error = apt.solve(&["libgomp1".to_owned(), "python3.6".to_owned()]).unwrap_err();
    assert!(matches!(&error, SystemError::Unknown { names } if names == "python3.6"), "{error}");
    assert_eq!(apt.solve(&["python3".to_owned()]).unwrap(), [], "the base has it");
}

#[test]
fn root_and_another_user_make_the_same_base_and_the_same_packages() {
    let shared = store(&crate::support::TestContext::warm());
    let ours = digests(&shared);
    let again = digests(&shared.forgetful());
    assert_eq!(ours, again, "twice as root");
    assert_eq!(as_user("recipes::as_another_user"), ours, "as another user");
}

#[test]
#[ignore = "started as another user by the test above"]
fn as_another_user() {
    answer(digests);
}
