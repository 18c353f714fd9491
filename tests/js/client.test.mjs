// The real @1backend/client against a running proxy: OB_SERVER_URL and OB_ADMIN_PASSWORD say which.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { Configuration, ProxySvcApi, RegistrySvcApi, UserSvcApi } from "@1backend/client";

const basePath = process.env.OB_SERVER_URL;
const password = process.env.OB_ADMIN_PASSWORD;
const appHost = "unnamed";
const slug = `npm-${process.pid}-svc`;
const servicePassword = "a-service-password";

// The client's own error hides the answer; a failing test shall tell what it was.
const tell = {
  post: async ({ response }) => {
    if (response.status >= 400) {
      console.log(`${response.url} -> ${response.status} ${await response.clone().text()}`);
    }
    return response;
  },
};

const anyone = new Configuration({ basePath, middleware: [tell] });
// This client sends its apiKey neither with register nor with refreshToken; the header goes with all.
const as = (token) => {
  const bearer = `Bearer ${token}`;
  const headers = { Authorization: bearer };
  return new Configuration({ basePath, middleware: [tell], apiKey: bearer, headers });
};

const login = async (who, secret) => {
  const { token } = await new UserSvcApi(anyone).login({ body: { appHost, slug: who, password: secret } });
  return token;
};
const statusOf = async (promise) => {
  try {
    await promise;
  } catch (error) {
    assert.ok(error.response, String(error));
    const body = await error.response.json();
    assert.deepEqual(Object.keys(body), ["error"]);
    return error.response.status;
  }
  return "it was done";
};

const adminToken = await login("1backend", password);
const admin = as(adminToken.token);

test("a login gives a token with everything the client reads", () => {
  assert.equal(typeof adminToken.token, "string");
  assert.match(adminToken.userId, /^usr-/);
  for (const field of ["id", "appId", "device", "createdAt", "updatedAt", "expiresAt"]) {
    assert.ok(adminToken[field], field);
  }
  assert.ok(new Date(adminToken.expiresAt) > new Date());
});

test("a wrong password is 401", async () => {
  assert.equal(await statusOf(login("1backend", "not the password")), 401);
});

test("the public key is PEM", async () => {
  const { publicKey } = await new UserSvcApi(anyone).getPublicKey();
  assert.match(publicKey, /^-----BEGIN PUBLIC KEY-----/);
});

test("self tells who asks", async () => {
  const self = await new UserSvcApi(admin).readSelf({ body: {} });
  assert.equal(self.user.slug, "1backend");
  assert.ok(self.roles.includes("user-svc:admin"));
});

test("a token refreshes", async () => {
  const { token } = await new UserSvcApi(admin).refreshToken();
  assert.equal(token.userId, adminToken.userId);
  const self = await new UserSvcApi(as(token.token)).readSelf({ body: { countTokens: true } });
  assert.ok(self.tokenCount >= 2);
});

test("a service account registers, logs in, and registers, lists and removes instances", async () => {
  await new UserSvcApi(admin).register({
    body: { appHost, slug, name: "A service", password: servicePassword },
  });
  const service = as((await login(slug, servicePassword)).token);
  const self = await new UserSvcApi(service).readSelf();
  assert.equal(self.user.slug, slug);
  assert.equal(self.user.name, "A service");

  const registry = new RegistrySvcApi(service);
  const urls = ["http://127.0.0.1:59001", "http://127.0.0.1:59002"];
  for (const url of [...urls, urls[0]]) await registry.registerInstance({ body: { url } });
  const { instances } = await registry.listInstances();
  assert.deepEqual(instances.map((each) => each.url).sort(), urls);
  for (const each of instances) {
    assert.equal(each.slug, slug);
    assert.ok(each.id);
    assert.ok(["Unknown", "Healthy", "Degraded", "Unreachable", "Error"].includes(each.status));
  }
  const all = await new RegistrySvcApi(admin).listInstances({ slug });
  assert.equal(all.instances.length, 2);

  for (const each of instances) await registry.removeInstance({ id: each.id });
  assert.deepEqual((await registry.listInstances()).instances, []);
  assert.equal(await statusOf(registry.removeInstance({ id: "inst-nobody" })), 404);
});

test("permissions", async () => {
  const allowed = await new UserSvcApi(admin).hasPermission({ permission: "proxy-svc:route:edit" });
  assert.equal(allowed.authorized, true);
  assert.equal(allowed.user.slug, "1backend");
  assert.ok(new Date(allowed.until) > new Date());

  const service = as((await login(slug, servicePassword)).token);
  const refused = await new UserSvcApi(service).hasPermission({ permission: "proxy-svc:route:edit" });
  assert.equal(refused.authorized, false);
  const routes = [{ id: "not.mine", target: "http://x:1" }];
  assert.equal(await statusOf(new ProxySvcApi(service).saveRoutes({ body: { routes } })), 403);
  assert.equal(await statusOf(new ProxySvcApi(anyone).listRoutes({ body: {} })), 401);
});

test("routes are saved, listed and deleted", async () => {
  const proxy = new ProxySvcApi(admin);
  const routes = [
    { id: "npm.example", target: "http://frontend:8080" },
    { id: "NPM.example/api", target: "http://1backend:11337" },
  ];
  const saved = await proxy.saveRoutes({ body: { routes } });
  assert.deepEqual(saved.routes.map((each) => each.id).sort(), ["npm.example", "npm.example/api"]);
  const { routes: listed } = await proxy.listRoutes({ body: {} });
  const targets = Object.fromEntries(listed.map((each) => [each.id, each.target]));
  assert.equal(targets["npm.example"], "http://frontend:8080");
  assert.equal(targets["npm.example/api"], "http://1backend:11337");
  const { routes: one } = await proxy.listRoutes({ body: { ids: ["npm.example"] } });
  assert.deepEqual(one.map((each) => each.id), ["npm.example"]);
  await proxy.deleteRoutes({ body: { ids: ["npm.example", "npm.example/api"] } });
  const left = (await proxy.listRoutes()).routes.map((each) => each.id);
  assert.ok(!left.includes("npm.example") && !left.includes("npm.example/api"));
  assert.equal(await statusOf(proxy.saveRoutes({ body: { routes: [{ id: "" , target: "x" }] } })), 400);
});

test("redirects are saved, listed and deleted", async () => {
  const proxy = new ProxySvcApi(admin);
  const redirects = [
    { id: "old.npm.example", target: "https://npm.example" },
    { id: "older.npm.example", target: "https://npm.example", statusCode: 301 },
  ];
  await proxy.saveRedirects({ body: { redirects } });
  const { redirects: listed } = await proxy.listRedirects({ body: {} });
  const codes = Object.fromEntries(listed.map((each) => [each.id, each.statusCode]));
  assert.equal(codes["old.npm.example"], 308);
  assert.equal(codes["older.npm.example"], 301);
  await proxy.deleteRedirects({ body: { ids: redirects.map((each) => each.id) } });
  const left = (await proxy.listRedirects()).redirects.map((each) => each.id);
  assert.ok(!left.includes("old.npm.example") && !left.includes("older.npm.example"));
});

test("certificates are saved and listed, and their private keys are not", async () => {
  const proxy = new ProxySvcApi(admin);
  const made = ["-subj", "/CN=npm.example", "-addext", "subjectAltName=DNS:npm.example,DNS:*.npm.example"];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"];
  const bundle = execFileSync("openssl", ["req", "-x509", ...kind, "-keyout", "-", ...made], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  assert.match(bundle, /PRIVATE KEY/);
  await proxy.saveCerts({ body: { certs: [{ id: "npm.example", cert: bundle }] } });
  const { certs } = await proxy.listCerts({ body: { ids: ["npm.example"] } });
  assert.equal(certs.length, 1);
  const [cert] = certs;
  assert.match(cert.cert, /^-----BEGIN CERTIFICATE-----/);
  assert.ok(!JSON.stringify(cert).includes("PRIVATE KEY"));
  assert.equal(cert.commonName, "npm.example");
  assert.deepEqual(cert.dnsNames, ["npm.example", "*.npm.example"]);
  assert.match(cert.serialNumber, /^[0-9]+$/);
  assert.equal(cert.publicKeyAlgorithm, "ECDSA");
  assert.equal(cert.publicKeyBitLength, 256);
  for (const field of ["issuer", "createdAt", "updatedAt", "signatureAlgorithm"]) assert.ok(cert[field], field);
  assert.ok(new Date(cert.notBefore) <= new Date() && new Date(cert.notAfter) > new Date());
  assert.ok((await proxy.listCerts()).certs.some((each) => each.id === "npm.example"));
  const service = as((await login(slug, servicePassword)).token);
  assert.equal(await statusOf(new ProxySvcApi(service).listCerts()), 403);
  const broken = [{ id: "npm.example", cert: "no PEM" }];
  assert.equal(await statusOf(proxy.saveCerts({ body: { certs: broken } })), 400);
});
