// Business rule "rekey: tell of changes" on change_request: Advanced, When = async, Insert and Update, Order 1000,
// condition: the fields that say which changes rekey carries out, e.g. current.cmdb_ci is the Exchange organization.
//
// Sends the whole change each time; rekey sorts out what is new. Async, so that nobody waits for it; a delivery that is lost is found by rekey's
// own look at the table, if it has one ([[ticket_system]]).
//
// System properties (sys_properties.list), readable for administrators only:
//   rekey.url            https://rekey.contoso.example
//   rekey.source         the id of the [[source]] in rekey.toml
//   rekey.secret         whsec_… as in its secrets
//   rekey.organization   contoso, if the change has no field u_organization
//   rekey.mid_server     optional: the MID Server that reaches rekey
(function executeRule(current, previous /* null when async */) {

    // Empty values as empty strings: rekey takes them as left out.
    function value(name) {
        return current.isValidField(name) ? String(current.getValue(name) || '') : '';
    }

    var change = {
        source: 'servicenow',
        instance: String(gs.getProperty('instance_name') || ''),
        table: String(current.getTableName()),
        event: String(current.operation() || '') === 'insert' ? 'change.created' : 'change.updated',
        sys_id: String(current.getUniqueValue()),
        requested_by_email: String(current.requested_by.email || ''),
        inputs: {
            organization: value('u_organization') || String(gs.getProperty('rekey.organization') || ''),
            reason: value('u_reason')
        }
    };
    ['number', 'sys_mod_count', 'sys_updated_on', 'type', 'chg_model', 'state', 'approval', 'risk', 'on_hold', 'start_date', 'end_date',
        'requested_by', 'short_description', 'cmdb_ci', 'correlation_id'].forEach(function (name) {
        change[name] = value(name);
    });

    // Standard Webhooks 1.0: generateMac takes the key in base64 and gives the code in base64. In a scoped application CertificateEncryption.
    var body = JSON.stringify(change);
    var id = 'msg_' + String(gs.generateGUID());
    var timestamp = String(Math.floor(new GlideDateTime().getNumericValue() / 1000));
    var key = String(gs.getProperty('rekey.secret')).replace('whsec_', '');
    var code = new GlideCertificateEncryption().generateMac(key, 'HmacSHA256', id + '.' + timestamp + '.' + body);

    var message = new sn_ws.RESTMessageV2();
    // Otherwise ${…} in a description would be replaced, and the signature would be that of another text.
    message.disableForcedVariableSubstitution();
    message.setEndpoint(gs.getProperty('rekey.url') + '/v1/hooks/servicenow/' + gs.getProperty('rekey.source'));
    message.setHttpMethod('post');
    message.setRequestHeader('Content-Type', 'application/json');
    message.setRequestHeader('webhook-id', id);
    message.setRequestHeader('webhook-timestamp', timestamp);
    message.setRequestHeader('webhook-signature', 'v1,' + code);
    message.setRequestBody(body);
    message.setHttpTimeout(10000);
    if (gs.getProperty('rekey.mid_server')) {
        message.setMIDServer(gs.getProperty('rekey.mid_server'));
    }

    try {
        var response = message.execute();
        var status = Number(response.getStatusCode());
        if (status < 200 || status > 299) {
            gs.error('rekey has not taken ' + change.number + ': ' + status + ' ' + response.getBody());
        }
    } catch (error) {
        gs.error('rekey was not reached with ' + change.number + ': ' + error.message);
    }
})(current, previous);
