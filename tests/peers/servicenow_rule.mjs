// Runs a business rule of ServiceNow with a stand-in for the objects that it is given there, on the real network.
// Arguments: the script, its system properties as JSON, the change as JSON. Prints what the script logged, as JSON.
import { execFileSync } from 'node:child_process';
import { createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import vm from 'node:vm';

const [script, properties, change] = [process.argv[2], JSON.parse(process.argv[3]), JSON.parse(process.argv[4])];
const logged = [];

class RESTMessageV2 {
    constructor() { Object.assign(this, { headers: {}, forced: true }); }
    disableForcedVariableSubstitution() { this.forced = false; }
    setEndpoint(url) { this.url = url; }
    setHttpMethod(method) { this.method = method; }
    setHttpTimeout() {}
    setMIDServer() { throw new Error('there is no MID Server here'); }
    setRequestHeader(name, value) { this.headers[name] = String(value); }
    setRequestBody(body) { this.body = String(body); }
    // Synchronous, as there.
    execute() {
        const body = this.forced ? this.body.replace(/\$\{[^}]*\}/g, '') : this.body;
        const headers = Object.entries({ 'User-Agent': 'ServiceNow/1.0', ...this.headers }).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
        const args = ['-sS', '--noproxy', '*', '-X', this.method.toUpperCase(), '-w', '\n%{http_code}', '--data-binary', '@-', ...headers, this.url];
        const told = execFileSync('curl', args, { input: body, encoding: 'utf8' });
        const at = told.lastIndexOf('\n');
        logged.push({ level: 'answer', status: Number(told.slice(at + 1)), body: told.slice(0, at) });
        return { getStatusCode: () => Number(told.slice(at + 1)), getBody: () => told.slice(0, at) };
    }
}

const current = {
    requested_by: { email: change.requested_by_email ?? '' },
    isValidField: name => name in change,
    getValue: name => change[name] ?? null,
    getTableName: () => 'change_request',
    getUniqueValue: () => change.sys_id,
    operation: () => 'update',
};

const gs = {
    getProperty: name => properties[name] ?? null,
    generateGUID: () => randomUUID().replaceAll('-', ''),
    error: text => logged.push({ level: 'error', text: String(text) }),
};

class GlideDateTime {
    getNumericValue() { return Date.now(); }
}

class GlideCertificateEncryption {
    generateMac(key, algorithm, text) {
        if (algorithm !== 'HmacSHA256') throw new Error(`no such algorithm: ${algorithm}`);
        return createHmac('sha256', Buffer.from(key, 'base64')).update(text, 'utf8').digest('base64');
    }
}

vm.runInNewContext(readFileSync(script, 'utf8'), { current, previous: null, gs, GlideDateTime, GlideCertificateEncryption, sn_ws: { RESTMessageV2 } });
console.log(JSON.stringify(logged));
