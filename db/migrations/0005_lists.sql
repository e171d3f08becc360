-- A list of one organization's renewals in one status reads only what it shows, however many others there are.
CREATE INDEX renewal_by_organization_and_status ON renewal (organization_id, status, id);
