//! The file server, without a port.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, COOKIE, RANGE};
use axum::http::{Method, Request, Response, StatusCode};
use tower::ServiceExt;

use super::TestServer;
use crate::server::files::router;

async fn send(server: &TestServer, request: Request<Body>) -> Response<Body> {
    router(server.shared.clone()).oneshot(request).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()
}

fn upload(server: &TestServer, path: &str, content: &[u8]) -> Request<Body> {
    let mut body = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"{path}\"; filename=\"{path}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    Request::post("/")
        .header(AUTHORIZATION, server.basic())
        .header(CONTENT_TYPE, "multipart/form-data; boundary=edge")
        .body(Body::from(body))
        .unwrap()
}

fn ask(server: &TestServer, method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header(AUTHORIZATION, server.basic())
}

#[tokio::test]
async fn a_file_is_uploaded_read_in_part_and_deleted() {
    let server = TestServer::new();
    let path = "/demo/train one.id/artifacts/result/result.json";
    let response = send(&server, upload(&server, path, b"0123456789")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(bytes(response).await, br#"["demo/train one.id/artifacts/result/result.json"]"#);

    let url = "/demo/train%20one.id/artifacts/result/result.json";
    let whole = send(&server, ask(&server, Method::GET, url).body(Body::empty()).unwrap()).await;
    assert_eq!(whole.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(bytes(whole).await, b"0123456789");

    let ranged = ask(&server, Method::GET, url).header(RANGE, "bytes=2-4").body(Body::empty()).unwrap();
    let part = send(&server, ranged).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[CONTENT_RANGE], "bytes 2-4/10");
    assert_eq!(bytes(part).await, b"234");

    let directory = ask(&server, Method::DELETE, "/demo").body(Body::empty()).unwrap();
    assert_eq!(send(&server, directory).await.status(), StatusCode::NOT_FOUND);
    let deleted = send(&server, ask(&server, Method::DELETE, url).body(Body::empty()).unwrap()).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    for method in [Method::GET, Method::DELETE] {
        let gone = send(&server, ask(&server, method, url).body(Body::empty()).unwrap()).await;
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn strangers_neither_read_nor_write() {
    let server = TestServer::new();
    send(&server, upload(&server, "x/secret", b"s")).await;
    let stranger = Request::get("/x/secret").body(Body::empty()).unwrap();
    assert_eq!(send(&server, stranger).await.status(), StatusCode::UNAUTHORIZED);
    let mut write = upload(&server, "x/other", b"s");
    write.headers_mut().remove(AUTHORIZATION);
    assert_eq!(send(&server, write).await.status(), StatusCode::UNAUTHORIZED);

    let token = server.data("auth.login", serde_json::json!({})).await["token"].as_str().unwrap().to_owned();
    let cookie = format!("a=b; clearml_token_basic={token}");
    let known = Request::get("/x/secret").header(COOKIE, cookie).body(Body::empty()).unwrap();
    assert_eq!(bytes(send(&server, known).await).await, b"s");
}

#[tokio::test]
async fn no_upload_leaves_the_directory() {
    let server = TestServer::new();
    for path in ["../keys.json", "a/../../keys.json", "/"] {
        let response = send(&server, upload(&server, path, b"x")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let outside = send(&server, ask(&server, Method::GET, "/..%2Fkeys.json").body(Body::empty()).unwrap()).await;
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
    assert!(!bytes(outside).await.starts_with(b"{"));
    assert_eq!(fs_err::read_dir(server.dir.path().join("incoming")).unwrap().count(), 0);
}
