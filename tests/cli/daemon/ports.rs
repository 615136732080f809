//! What listens in a task is reached at the machine's ports that were told, and nobody has them afterwards. A first process
//! of the engine's own (`--init`) stands above the image's meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use agent::run::ports::own_address;
use serde_json::json;

use super::Place;
use super::keeper::{Keeper, PODMAN, in_both_engines};
use crate::support::{Call, Server, Tap, TestContext, wait_until};

/// Leaves an orphan that ends, then answers on three ports until it is asked to end.
const LISTENS: &str = "\
import os, select, signal, socket, sys, time
reader, writer = os.pipe()
if not os.fork():
    if not os.fork():
        os.write(writer, str(os.getpid()).encode())
    os._exit(0)
os.wait()
orphan = '/proc/' + os.read(reader, 99).decode()
late = time.time() + 60
while os.path.exists(orphan) and time.time() < late:
    time.sleep(0.05)
print('first', open('/proc/1/comm').read().strip(), 'orphans', int(os.path.exists(orphan)), flush=True)
def end(*_):
    print('asked to end', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
ports = {socket.create_server(('', port)): port for port in (8080, 8081, 8082)}
print('at', os.environ['CLEARML_AGENT_HOST_IP'], 'up', os.environ['CLEARML_TASK_ID'], flush=True)
while True:
    for server in select.select(ports, [], [])[0]:
        client = server.accept()[0]
        client.sendall(b'%d heard %s' % (ports[server], client.recv(99)))
        client.close()
";

fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

#[track_caller]
fn asked(address: &str, port: u16) -> String {
    let mut stream = TcpStream::connect((address, port)).unwrap();
    stream.write_all(b"a word").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The network that a container is to have, where it cannot be the engine's usual one.
fn network(keeper: Keeper) -> &'static str {
    // Podman's own bridge would have rules in this machine's firewall.
    if keeper.flag == PODMAN.flag { "--network slirp4netns " } else { "" }
}

fn without_proxy(agent: Call) -> Call {
    ["http_proxy", "HTTP_PROXY", "all_proxy"].into_iter().fold(agent, Call::env_remove)
}

fn what_listens_is_reached_where_it_was_told(keeper: Keeper) {
    let context = TestContext::warm();
    // A container that has a network of its own has no part in this machine's loopback.
    let address = own_address();
    let place = Place { context: &context, server: Server::start_at(&context, &address) };
    let other = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let busy = other.local_addr().unwrap().port();
    let free = (20_000..30_000).find(|it| is_free(*it)).unwrap();
    let arguments = format!("{}--init -p {busy}:8080 -p 8081 -p {free}:8082", network(keeper));
    let task = place.script("listens", LISTENS, &json!({ "arguments": arguments }));
    place.enqueue(&task, "queue");
    let daemon =
        place.daemon_of(without_proxy(place.agent()), "daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);
    place.is_up(&task);

    let console = place.server.console(&task);
    let first = format!("first {}-init orphans 0\n", keeper.flag.trim_start_matches('-'));
    for said in [first, format!("at {address} up "), format!("port {busy} is busy or not allowed here; 8080 ")] {
        assert!(console.contains(&said), "{console}");
    }
    let told = place.field(&task, "runtime")["_external_host_tcp_port_mapping"].as_str().unwrap().to_owned();
    let ports: Vec<(u16, u16)> = told
        .split(',')
        .map(|it| it.split_once(':').unwrap())
        .map(|(outside, inside)| (outside.parse().unwrap(), inside.parse().unwrap()))
        .collect();
    assert_eq!((ports.iter().map(|it| it.1).collect::<Vec<_>>(), ports[2].0), (vec![8080, 8081, 8082], free), "{told}");
    for (outside, inside) in &ports {
        assert_ne!(*outside, busy);
        assert!(!is_free(*outside), "{outside}");
        assert_eq!(asked(&address, *outside), format!("{inside} heard a word"));
    }

    place.server.call("tasks.stop", &json!({ "task": task }));
    place.becomes(&task, "stopped");
    assert_eq!(place.console(&task, "asked to end\n"), 1);
    keeper.is_rid_of(&place, &task);
    wait_until("the ports are free", || ports.iter().all(|it| is_free(it.0)));
    daemon.stop();
    keeper.forget(&place, &[&task]);
}
in_both_engines!(what_listens_is_reached_where_it_was_told);

fn a_port_that_somebody_else_was_quicker_to_take_is_chosen_anew(keeper: Keeper) {
    let context = TestContext::warm();
    let address = own_address();
    let place = Place { context: &context, server: Server::start_at(&context, &address) };
    let tap = Tap::before_at(&address, place.server.api());
    let free = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let arguments = format!("{}-p {free}:8080", network(keeper));
    let task = place.script("listens", LISTENS, &json!({ "arguments": arguments }));
    place.enqueue(&task, "queue");
    let agent = without_proxy(place.agent()).env("CLEARML_API_HOST", tap.address());
    // It is told after it was chosen, and before the run is started.
    tap.hold("tasks.edit");
    let daemon = place.daemon_of(agent, "daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);
    wait_until("the port is chosen", || {
        let chosen = tap.heard(&format!("\"{free}:8080\""));
        if tap.holds() && !chosen {
            tap.pass_one();
        }
        tap.holds() && chosen
    });
    let other = TcpListener::bind(("0.0.0.0", free)).unwrap();
    tap.release();
    place.is_up(&task);
    let told = place.field(&task, "runtime")["_external_host_tcp_port_mapping"].as_str().unwrap().to_owned();
    let another: u16 = told.strip_suffix(":8080").unwrap().parse().unwrap();
    assert_ne!(another, free);
    assert_eq!(asked(&address, another), "8080 heard a word");
    drop(other);
    place.server.call("tasks.stop", &json!({ "task": task }));
    place.becomes(&task, "stopped");
    keeper.is_rid_of(&place, &task);
    daemon.stop();
    keeper.forget(&place, &[&task]);
}
in_both_engines!(a_port_that_somebody_else_was_quicker_to_take_is_chosen_anew);
