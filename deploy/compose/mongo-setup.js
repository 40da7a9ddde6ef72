// Run by the service mongo-setup: starts the replica set and creates the login of syncctl. Safe to repeat.
const { readFileSync } = require("fs");
const read = (name) => readFileSync(`/run/secrets/${name}`, "utf8").trim();
const admin = db.getSiblingDB("admin");

admin.auth("root", read("mongo_root_password"));
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] });
}
while (!admin.hello().isWritablePrimary) sleep(500);

const login = { pwd: read("mongo_password"), roles: [{ role: "readWrite", db: "celery_logs" }] };
if (admin.getUser("syncctl")) admin.updateUser("syncctl", login);
else admin.createUser({ user: "syncctl", ...login });
